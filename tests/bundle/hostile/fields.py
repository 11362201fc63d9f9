"""Any JSON value in any field of a manifest."""

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.bundle.hostile.victim import Change, Steps, Victim

LEAVES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 4, 200, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e-30, 1e30, 1e38, 1e300, -1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "a b", "\0", "\ud800", "é", "..", "../x", "/etc/passwd", "a/b", "manifest.json", "original.onnx"),
    *(
        "image",
        "logits",
        "relu1",
        "float16",
        "float64",
        "uint8",
        "object",
        "empirical",
        "margin_gap",
        "residual_norm",
        "residual_margin_gap",
    ),
    *("NHWC", "auto", "x" * 2000, "\n\x1b[2J", "0" * 64),
]
"""Numbers and texts that stand at some edge, or that a field knows."""

leaves = st.sampled_from(LEAVES) | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
deep = st.integers(50, 3000).map(lambda depth: json.loads("[" * min(depth, 900) + "]" * min(depth, 900)))
long = st.sampled_from([[0.0] * 5000, ["x"] * 5000, [[]] * 5000, {str(i): 0 for i in range(5000)}])
anything = st.one_of(values, values, values, deep, long)


def _setter(at: Steps, how: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        inside: Any = raw
        try:
            for key in at[:-1]:
                inside = inside[key]
            if how == "remove":
                del inside[at[-1]]
            elif how == "repeat":
                inside[at[-1]] = [inside[at[-1]]] * 3
            elif how == "add" and isinstance(inside, dict):
                inside["added"] = copy.deepcopy(value)
            elif how == "add":
                inside.append(copy.deepcopy(value))
            else:
                inside[at[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took the place away

    return change


def changed_fields(victim: Victim) -> st.SearchStrategy[Change]:
    """Any JSON value in any field of the manifest, or a field more or less."""
    how = st.sampled_from(["set", "set", "set", "set", "remove", "repeat", "add"])
    one = st.builds(_setter, st.sampled_from(victim.places), how, anything)
    return st.lists(one, min_size=1, max_size=3).map(lambda fields: Change(fields=tuple(fields)))


def changed_numbers(victim: Victim) -> st.SearchStrategy[Change]:
    """Numbers in place of numbers, so that more of what is decoded is also used."""
    places = [at for at in victim.places if isinstance(_at(victim.raw, at), float | int)]
    numbers = st.sampled_from([each for each in LEAVES if isinstance(each, float | int)]) | st.floats(-10, 10)
    one = st.builds(_setter, st.sampled_from(places), st.just("set"), numbers)
    return st.lists(one, min_size=1, max_size=3).map(lambda fields: Change(fields=tuple(fields)))


def _at(raw: Any, at: Steps) -> Any:
    for key in at:
        raw = raw[key]
    return raw
