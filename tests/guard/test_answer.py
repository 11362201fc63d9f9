"""What a caller receives for every kind of output, with the values written out."""

from typing import Any

import numpy as np
import pytest

from mmguard.bundle.manifest import OutputSpec
from mmguard.guard.answer import guarded_outputs, with_rows_of
from mmguard.types import Decision

CLIPPED = np.array([[1, 2, 3], [9, 5, 7], [0, 0, 4]], np.float32)
SPEC = OutputSpec(("scores", "label", "code", "word", "maps", "features"), "scores", ("label", "code", "word", "maps"))
OUTPUTS: dict[str, Any] = {
    "scores": np.array([[5, 1, 0], [6, 2, 1], [7, 3, 2]], np.float32),
    "label": np.array([0, 0, 0], np.int64),
    "code": np.array([0, 0, 0], np.uint8),
    "word": np.array(["cat", "cat", "cat"], dtype=object),
    "maps": [{"cat": 0.5}, {"cat": 0.6}, {"cat": 0.7}],
    "features": np.array([[1.0], [2.0], [3.0]], np.float32),
}


def decision_of(labels: list[int], corrected: list[bool]) -> Decision:
    n = len(labels)
    zeros, marks, numbers = np.zeros(n, np.int64), np.array(corrected), np.zeros(n)
    return Decision(np.array(labels), zeros, zeros, marks, marks, np.full(n, "both"), *[numbers] * 3)


def head(logits: np.ndarray[Any, Any]) -> list[Any]:
    """Return the derived outputs of some rows, in order."""
    best = logits.argmax(axis=1)
    return [best, best.astype(np.uint8), np.array(["cat", "dog", "ship"])[best], [{"cat": float(i)} for i in best]]


def test_a_corrected_row_is_the_clipped_network_s_in_every_output_computed_from_the_logits() -> None:
    outputs = guarded_outputs(OUTPUTS, CLIPPED, decision_of([0, 2, 0], [False, True, False]), SPEC, head)
    assert outputs["scores"].tolist() == [[5, 1, 0], [4, 5, 7], [7, 3, 2]]  # class 0 one below the lowest of the others
    assert outputs["scores"].dtype == np.float32
    assert outputs["label"].tolist() == [0, 2, 0]
    assert outputs["code"].tolist() == [0, 2, 0]
    assert outputs["word"].tolist() == ["cat", "ship", "cat"]
    assert outputs["maps"] == [{"cat": 0.5}, {"cat": 2.0}, {"cat": 0.7}]
    assert outputs["features"] is OUTPUTS["features"]


def test_a_row_without_a_label_is_void_in_every_output_computed_from_the_logits() -> None:
    outputs = guarded_outputs(OUTPUTS, None, decision_of([0, -1, 0], [False] * 3), SPEC, head)
    np.testing.assert_array_equal(outputs["scores"], [[5, 1, 0], [np.nan] * 3, [7, 3, 2]])
    assert outputs["label"].tolist() == [0, -1, 0]
    assert outputs["code"].tolist() == [0, 255, 0]
    assert outputs["word"].tolist() == ["cat", "", "cat"]
    assert outputs["maps"][0] == {"cat": 0.5}
    assert list(outputs["maps"][1]) == ["cat"]
    assert np.isnan(outputs["maps"][1]["cat"])
    assert outputs["features"] is OUTPUTS["features"]


def test_a_truth_value_of_a_row_without_a_label_is_false() -> None:
    spec = OutputSpec(("scores", "sure"), "scores", ("sure",))
    given = {"scores": OUTPUTS["scores"], "sure": np.ones(3, bool)}
    outputs = guarded_outputs(given, None, decision_of([-1, 0, 0], [False] * 3), spec, None)
    assert outputs["sure"].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("labels", "corrected"), [([2, 2, 2], [True] * 3), ([-1, -1, -1], [False] * 3), ([2, -1, 0], [True, False, False])]
)
def test_what_the_network_returned_is_left_as_it_is(labels: list[int], corrected: list[bool]) -> None:
    before = {
        name: [dict(row) for row in each] if isinstance(each, list) else each.copy() for name, each in OUTPUTS.items()
    }
    guarded_outputs(OUTPUTS, CLIPPED, decision_of(labels, corrected), SPEC, head)
    for name, each in before.items():
        np.testing.assert_array_equal(OUTPUTS[name], each)


def test_some_rows_of_another_network_take_the_place_of_those_of_one() -> None:
    others: dict[str, Any] = {
        "scores": np.full((3, 3), 8, np.float32),
        "maps": [{"dog": 1.0}, {"dog": 2.0}, {"dog": 3.0}],
        "constant": np.array([9.0]),
    }
    own = {"scores": OUTPUTS["scores"], "maps": OUTPUTS["maps"], "constant": np.array([4.0])}
    outputs = with_rows_of(own, others, np.array([True, False, True]))
    assert outputs["scores"].tolist() == [[8, 8, 8], [6, 2, 1], [8, 8, 8]]
    assert outputs["maps"] == [{"dog": 1.0}, {"cat": 0.6}, {"dog": 3.0}]
    assert outputs["constant"].tolist() == [4]
    assert OUTPUTS["scores"][0].tolist() == [5, 1, 0]
