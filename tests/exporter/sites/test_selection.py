"""Choosing among the sites."""

import pytest

from mmguard.errors import OptionError
from mmguard.exporter.sites.activation import Activation
from mmguard.exporter.sites.selection import select


def network(*places: int | None) -> list[Activation]:
    """Sites `s0`, `s1`, ... at so many places each."""
    return [Activation(f"s{i}", "Relu", 1, 8, each) for i, each in enumerate(places)]


def chosen(activations: list[Activation], sites: str) -> list[str]:
    return [each.value for each in select(activations, sites)]


@pytest.mark.parametrize(
    ("places", "last"),
    [
        ((64, 64, 16, 16, 4, 4), ["s4", "s5"]),
        ((64, 16, 16, 1), ["s1", "s2", "s3"]),  # a head of two layers
        ((64, 1, 64, 16, 1, 16), ["s3", "s4", "s5"]),  # squeeze and excitation
        ((64, 16, 64), ["s2"]),
        ((1, 1, 1, 1, 1, 1), ["s4", "s5"]),
        ((17, 17, 17, 17), ["s2", "s3"]),  # tokens
        ((64, None, 16), ["s2"]),
        ((64,), ["s0"]),
    ],
)
def test_the_last_stage(places: tuple[int | None, ...], last: list[str]) -> None:
    assert chosen(network(*places), "last") == last


def test_all_are_all() -> None:
    assert chosen(network(4, 4), "all") == ["s0", "s1"]


@pytest.mark.parametrize(
    ("pattern", "values"),
    [
        ("/layer1/*", ["/layer1/Relu_output_0"]),
        ("Gelu", ["/layer2/Mul_1_output_0"]),
        ("*layer2*, Relu", ["/layer1/Relu_output_0", "/layer2/Mul_1_output_0", "odd[0]"]),
        ("odd[0]", ["odd[0]"]),
        ("*", ["/layer1/Relu_output_0", "/layer2/Mul_1_output_0", "odd[0]"]),
    ],
)
def test_patterns_are_on_values_and_operators(pattern: str, values: list[str]) -> None:
    activations = [
        Activation("/layer1/Relu_output_0", "Relu", 1),
        Activation("/layer2/Mul_1_output_0", "Gelu", 1),
        Activation("odd[0]", "Relu", 1),
    ]
    assert chosen(activations, pattern) == values


@pytest.mark.parametrize("pattern", ["relu", "s0,s7", "", "s0,"])
def test_a_pattern_that_fits_none_is_refused_with_the_sites(pattern: str) -> None:
    with pytest.raises(OptionError, match=r"matches no clip site; .*: s0 \(Relu\), s1 \(Relu\)"):
        select(network(4, 4), pattern)
