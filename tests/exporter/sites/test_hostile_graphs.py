"""Graphs that make the search for activations look at far more than a classifier has."""

from itertools import pairwise

import pytest

from mmguard.errors import ModelError
from mmguard.exporter.sites import candidates, find
from tests.exporter.sites.graphs import CONVOLVED, operators, surveyed


def chain(operator: str, n: int, first: str = "c", name: str = "v") -> str:
    """Nodes that give `name` and their number, each of the one before."""
    names = [first, *(f"{name}{i}" for i in range(1, n + 1))]
    return " ".join(f"{after} = {operator}({before})" for before, after in pairwise(names))


def test_a_constant_is_computed_once_however_often_others_are_made_of_it() -> None:
    doubled = " ".join(f"d{i + 1} = Add(d{i}, d{i})" for i in range(60))  # 2^60 ways from the last to the first
    found = surveyed(CONVOLVED.format(f"r = Relu(c) {doubled} y = Mul(r, d60)"), constants="float d0 = {1.0}")
    assert operators(found) == [("r", "Relu")]


def test_a_constant_of_thousands_of_others_is_not_followed() -> None:
    body = f"r = Relu(c) {chain('Neg', 3000, 'one', 'n')} y = Mul(r, n3000)"
    assert operators(surveyed(CONVOLVED.format(body), constants="float one = {1.0}")) == [("r", "Relu")]


def test_an_activation_is_followed_through_thousands_of_nodes_that_hand_it_on() -> None:
    body = f"r = Relu(c) {chain('Identity', 3000, 'r')} y = Identity(v3000)"
    assert operators(surveyed(CONVOLVED.format(body))) == [("r", "Relu")]


def test_a_value_inside_an_activation_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "MAX_EXPRESSIONS", 600)  # each of 500 has up to 48
    found = surveyed(CONVOLVED.format(f"{chain('Relu', 500)} y = Relu(v500)"))
    assert operators(found)[-1] == ("y", "Relu")


def test_more_runs_of_elementwise_nodes_than_any_network_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "MAX_EXPRESSIONS", 600)
    every = ", ".join(f"v{i}" for i in range(1, 101))  # so that none is inside another
    with pytest.raises(ModelError, match="more than 600 chains of elementwise operators"):
        surveyed(CONVOLVED.format(f"{chain('Relu', 100)} y = Sum({every})"))


def test_more_activations_than_any_network_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "MAX_ACTIVATIONS", 3)
    body = " ".join(f"r{i} = Relu(v{i}) v{i + 1} = Conv(r{i}, k)" for i in range(4))
    with pytest.raises(ModelError, match="has 4 activations, but mmguard accepts at most 3"):
        surveyed(CONVOLVED.format(f"v0 = Conv(c, k) {body} y = Identity(v4)"))
