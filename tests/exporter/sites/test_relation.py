"""Where axes go through a change of shape."""

import onnx_ir as ir
import pytest

from mmguard.exporter.shape_inference import Shape
from mmguard.exporter.sites.relation import relation


def related(operator: str, source: Shape, target: Shape, **attributes: int | list[int]) -> dict[int, set[int]]:
    """Axes of the output by axis of the input."""
    node = ir.node(operator, [ir.Value(name="x")], attributes)
    pairs = relation(node, source, target)
    return {a: {b for each, b in pairs if each == a} for a in range(len(source))}


def test_a_transpose_moves_axes() -> None:
    assert related("Transpose", ("n", 4, 5, 6), ("n", 5, 6, 4), perm=[0, 2, 3, 1]) == {0: {0}, 1: {3}, 2: {1}, 3: {2}}
    assert related("Transpose", ("n", 4), (4, "n")) == {0: {1}, 1: {0}}, "reversed where no order is given"


@pytest.mark.parametrize(
    ("source", "target", "channels"),
    [
        (("n", 4, 5, 6), ("n", 120), {1}),
        (("n", 4, 5, 6), ("n", 4, 30), {1}),
        (("n", 4, None, None), ("n", None), {1}),
        (("n", 4, "h", "w"), ("n", 4, "h*w"), {1}),
        (("n", 4, 1, 1), ("n", 4), {1}),
        (("n", 6, 5, 5), ("n", 2, 3, 5, 5), {1, 2}),
        (("n", 6, 5, 5), ("n", 2, 75), {1, 2}),
        (("n", 8, 4, 4), ("n", 2, 2, 2, 4, 4), {1, 2, 3}),
        ((None, 4, 5, 6), (None, 120), {1}),
        (("n", 4, 5), (20, "n"), {0, 1}),
    ],
)
def test_a_reshape_splits_and_joins_axes(source: Shape, target: Shape, channels: set[int]) -> None:
    assert related("Reshape", source, target)[1] == channels


def test_what_a_reshape_joins_comes_from_all_its_parts() -> None:
    assert related("Reshape", ("n", 2, 3, 5, 5), ("n", 6, 5, 5)) == {0: {0}, 1: {1}, 2: {1}, 3: {2}, 4: {3}}
    assert related("Flatten", ("n", 4, 5, 6), ("n", 120)) == {0: {0}, 1: {1}, 2: {1}, 3: {1}}


def test_tokens_keep_their_features_where_they_join_the_batch() -> None:
    assert related("Reshape", ("n", 7, 6), (None, 6))[2] == {1}


@pytest.mark.parametrize("shape", [("n", 4, 1, 1), ("n", 4)])
def test_a_reduced_axis_goes_nowhere(shape: Shape) -> None:
    assert related("ReduceMean", ("n", 4, 5, 6), shape, axes=[2, 3]) == {0: {0}, 1: {1}, 2: set(), 3: set()}
    assert related("ReduceMean", ("n", 5, 6, 4), shape, axes=[-3, -2])[1] == set()


def test_broadcasting_counts_from_the_last_axis() -> None:
    assert related("Add", (4, 1, 1), ("n", 4, 5, 6)) == {0: {1}, 1: set(), 2: set()}


def test_gather_of_one_place_drops_its_axis() -> None:
    assert related("Gather", ("n", 7, 6), ("n", 6), axis=1) == {0: {0}, 1: set(), 2: {1}}
    assert related("Gather", ("n", 7, 6), ("n", 3, 6), axis=1) == {0: {0}, 1: {1}, 2: {2}}


def test_a_shape_has_no_channels() -> None:
    assert related("Shape", ("n", 4, 5, 6), (4,)) == {0: set(), 1: set(), 2: set(), 3: set()}
