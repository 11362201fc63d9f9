"""Which sites' activations the test reads."""

import pytest

from mmguard.exporter.evidence.choose import MAX_CHANNELS, MAX_SITES, choose_sites
from mmguard.exporter.sites.activation import Activation
from mmguard.types import EvidenceSite


def sites(n: int) -> list[Activation]:
    return [Activation(f"site{i}", "Relu", 1, 8, 16) for i in range(n)]


def test_the_sites_are_evenly_spaced_among_the_later_two_thirds() -> None:
    chosen = choose_sites(sites(30))
    means = [site.value for site in chosen if site.feature == "mean"]
    assert means == [f"site{i}" for i in (10, 13, 15, 18, 21, 24, 26, 29)]
    assert chosen[-1] == EvidenceSite("site29", 1, "root")
    assert len(chosen) == MAX_SITES + 1


@pytest.mark.parametrize(("n", "first"), [(1, 0), (2, 1), (3, 1), (6, 2), (12, 4)], ids=lambda number: str(number))
def test_a_small_network_gives_all_its_later_sites(n: int, first: int) -> None:
    chosen = choose_sites(sites(n))
    assert [site.value for site in chosen] == [*(f"site{i}" for i in range(first, n)), f"site{n - 1}"]
    assert [site.feature for site in chosen] == ["mean"] * (n - first) + ["root"]


def test_sites_of_too_many_unknown_or_single_channels_are_left_out() -> None:
    unfit = [Activation(f"unfit{n}", "Relu", 1, n) for n in (MAX_CHANNELS + 1, None, 1)]
    assert choose_sites(unfit) == []
    assert choose_sites([*unfit, Activation("last", "Gelu", -1, MAX_CHANNELS)]) == [
        EvidenceSite("last", -1, "mean"),
        EvidenceSite("last", -1, "root"),
    ]
