"""Follow axes through a node: find out which axis of the node's input becomes which axis of its output."""

import math
from collections.abc import Sequence

import onnx_ir as ir

from mmguard.exporter.shape_inference import Shape

Pairs = frozenset[tuple[int, int]]
"""Pairs (axis of the input, axis of the output). If several axes of the input become one axis of the output, that axis
of the output is in several pairs."""

RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
SHAPELESS = frozenset({"ArgMax", "ArgMin", "NonZero", "Shape", "Size", "TopK"})
"""Operators through which no axis is followed, because their output does not contain the numbers of their input."""


def relation(node: ir.Node, source: Shape, target: Shape) -> Pairs:
    """Return which axes of a node's data input become which axes of its output.

    Args:
        node: a node.
        source: shape of the input.
        target: shape of the output.

    Example:
        >>> node = ir.node("Transpose", [], {"perm": [0, 2, 1]})
        >>> sorted(relation(node, ("N", 8, 3), ("N", 3, 8)))
        [(0, 0), (1, 2), (2, 1)]
    """
    if node.op_type == "Transpose":
        default = list(reversed(range(len(source))))
        return frozenset((axis, i) for i, axis in enumerate(node.attributes.get_ints("perm", default) or default))
    if node.op_type in RESHAPING:
        return _reshaped(source, target)
    if node.op_type.startswith("Reduce"):
        return _reduced(node, source, target)
    if node.op_type == "Gather":
        return _gathered(node, source, target)
    if node.op_type in SHAPELESS:
        return frozenset()
    return _aligned(source, target)


def _aligned(source: Shape, target: Shape) -> Pairs:
    """Pair axes by the rules of broadcasting, last axis first, and omit axes of length 1 that are stretched."""
    shift = len(target) - len(source)
    pairs = ((axis, axis + shift) for axis in range(len(source)) if axis + shift >= 0)
    return frozenset((a, b) for a, b in pairs if source[a] != 1 or target[b] == 1)


def _reduced(node: ir.Node, source: Shape, target: Shape) -> Pairs:
    """Pair the axes that are not reduced, in order."""
    gone = {axis % len(source) for axis in _axes(node) or range(len(source))}
    kept = [axis for axis in range(len(source)) if axis not in gone]
    return frozenset((axis, axis if len(source) == len(target) else i) for i, axis in enumerate(kept))


def _axes(node: ir.Node) -> Sequence[int] | None:
    """Return the axes of a Reduce node, from an attribute or, in newer opsets, an input; None if both are absent."""
    if "axes" in node.attributes:
        return node.attributes["axes"].as_ints()
    tensor = None if len(node.inputs) < 2 or node.inputs[1] is None else ir.convenience.get_const_tensor(node.inputs[1])
    return None if tensor is None else [int(axis) for axis in tensor.numpy().reshape(-1)]


def _gathered(node: ir.Node, source: Shape, target: Shape) -> Pairs:
    """Pair the axes of a Gather, which replaces one axis with all axes of the indices."""
    axis, added = node.attributes.get_int("axis", 0) % len(source), len(target) - len(source)
    kept = [(a, a if a < axis else a + added) for a in range(len(source)) if a != axis]
    return frozenset([*kept, (axis, axis)] if added == 0 else kept)


def _reshaped(source: Shape, target: Shape) -> Pairs:
    """Pair equal axes at both ends of the shapes and, in between, axes whose ranges of strides in memory overlap."""
    left, right = 0, 0
    shortest = min(len(source), len(target))
    while right < shortest and _equal(source[-1 - right], target[-1 - right]):
        right += 1
    while left < shortest - right and (_equal(source[left], target[left]) or (left == 0 and _open(source, target))):
        left += 1
    ends = [(i, i) for i in range(left)] + [(len(source) - 1 - i, len(target) - 1 - i) for i in range(right)]
    inner, outer = source[left : len(source) - right], target[left : len(target) - right]
    return frozenset([*ends, *((a + left, b + left) for a, b in _overlapping(inner, outer))])


def _equal(one: int | str | None, other: int | str | None) -> bool:
    return one is not None and one == other


def _open(source: Shape, target: Shape) -> bool:
    """Return whether the first axis of both shapes may be the batch axis: it has no fixed length in either shape."""
    return not isinstance(source[0], int) and not isinstance(target[0], int)


def _overlapping(source: Shape, target: Shape) -> list[tuple[int, int]]:
    """Return the pairs of axes whose ranges of strides overlap, or every pair of axes if a length is not known."""
    one, other = _places(source), _places(target)
    if one is None or other is None or math.prod(map(int, source)) != math.prod(map(int, target)):  # type: ignore[arg-type]
        return [(a, b) for a in range(len(source)) for b in range(len(target)) if source[a] != 1 and target[b] != 1]
    return [
        (a, b)
        for a, (low, high) in enumerate(one)
        for b, (least, most) in enumerate(other)
        if max(low, least) < min(high, most)
    ]


def _places(shape: Shape) -> list[tuple[int, int]] | None:
    """Return each axis's range of strides (stride, stride times length), or None if a length is not known."""
    places: list[tuple[int, int]] = []
    step = 1
    for size in reversed(shape):
        if not isinstance(size, int):
            return None
        places.append((step, step * size))
        step *= size
    return places[::-1]
