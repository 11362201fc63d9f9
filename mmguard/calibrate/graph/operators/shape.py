"""Operators that read or change the shape of a tensor, but not its values."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import integers


@operator("Shape", attributes=("start", "end"))
def shape(node: Node, x: Tensor) -> Tensor:
    """Shape of x from axis `start` to `end`, as an int64 tensor that is always on the CPU."""
    end: int | None = node.attribute("end", None)
    return torch.tensor(x.shape[node.attribute("start", 0) : end], dtype=torch.int64)


@operator("Size")
def size(node: Node, x: Tensor) -> Tensor:
    """Number of elements of x, as an int64 scalar that is always on the CPU."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Identity")
def identity(node: Node, x: Tensor) -> Tensor:
    """`x` unchanged."""
    return x


@operator("Reshape", attributes=("allowzero",), host=(1,))
def reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """`x` in the given shape. A length of -1 is inferred; a length of 0 is copied from x unless `allowzero` is set."""
    sizes = integers(shape)
    if not node.attribute("allowzero", 0):
        sizes = [size if size else x.shape[axis] for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten", attributes=("axis",))
def flatten(node: Node, x: Tensor) -> Tensor:
    """`x` as a matrix: the axes before `axis` become the rows, and the remaining axes become the columns."""
    axis = node.attribute("axis", 1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Transpose", attributes=("perm",))
def transpose(node: Node, x: Tensor) -> Tensor:
    """`x` with its axes permuted; by default, their order is reversed."""
    return x.permute(node.attribute("perm", tuple(reversed(range(x.dim())))))


def _axes(node: Node, axes: Tensor | None) -> Sequence[int] | None:
    """Return the axes, which are an attribute below opset 13, and an input from opset 13 on."""
    if axes is not None:
        return integers(axes)
    chosen: Sequence[int] | None = node.attribute("axes", None)
    return chosen


@operator("Squeeze", attributes=("axes",), host=(1,))
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """`x` without the given axes, which must have length 1; by default, all axes of length 1 are removed."""
    chosen = _axes(node, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


@operator("Unsqueeze", attributes=("axes",), host=(1,))
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """`x` with axes of length 1 inserted at the given positions of the result."""
    chosen = _axes(node, axes) or ()
    for axis in sorted(axis % (x.dim() + len(chosen)) for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Expand", host=(1,))
def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast x to `shape`; a length of 1 in `shape` leaves that axis of x unchanged."""
    sizes = integers(shape)
    length = max(x.dim(), len(sizes))
    own, asked = ([1] * (length - len(part)) + list(part) for part in (x.shape, sizes))
    return x.expand([b if a == 1 else a for a, b in zip(own, asked, strict=True)])


@operator("Tile", host=(1,))
def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """`x` repeated `repeats[i]` times along each axis i."""
    return x.repeat(integers(repeats))
