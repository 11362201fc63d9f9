"""Operators that slice, gather, split, concatenate and pad tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import aligned, integers


@operator("Gather", attributes=("axis",))
def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of x along `axis` at the indices; negative indices count from the end."""
    axis = node.attribute("axis", 0) % x.dim()
    if indices.dim() == 0 and indices.is_cpu:
        return x.select(axis, int(indices))
    x, indices = aligned(x, indices)
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    taken = x.index_select(axis, indices.reshape(-1))
    return taken.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


@operator("Slice", attributes=("axes", "ends", "starts"), host=(1, 2, 3, 4))
def slices(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """`x[start:end:step]` along `axes`; limits and axes are attributes below opset 10, and inputs from opset 10 on."""
    begin = node.required("starts") if starts is None else integers(starts)
    stop = node.required("ends") if ends is None else integers(ends)
    along = node.attribute("axes", tuple(range(len(begin)))) if axes is None else integers(axes)
    step = (1,) * len(begin) if steps is None else integers(steps)
    for axis, part in zip(along, map(slice, begin, stop, step), strict=True):
        x = _sliced(x, axis % x.dim(), part)
    return x


def _sliced(x: Tensor, axis: int, part: slice) -> Tensor:
    chosen = range(*part.indices(x.shape[axis]))
    if chosen.step > 0:
        return x[(slice(None),) * axis + (slice(chosen.start, chosen.stop, chosen.step),)]
    return x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device))


@operator("Split", attributes=("axis", "num_outputs", "split"), host=(1,))
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Parts of x along `axis`. The sizes (an attribute below opset 13, then an input) are equal by default."""
    axis = node.attribute("axis", 0)
    lengths: Sequence[int] = node.attribute("split", ()) if sizes is None else integers(sizes)
    if lengths:
        return torch.split_with_sizes(x, list(lengths), axis)
    count = node.attribute("num_outputs", node.outputs)
    return torch.split_with_sizes(x, _even(x.shape[axis], count), axis)


def _even(size: int, count: int) -> list[int]:
    """Divide `size` elements into `count` parts of equal length (the last parts may be shorter); return the lengths."""
    length = -(-size // count)
    return [max(0, min(length, size - part * length)) for part in range(count)]


@operator("Concat", attributes=("axis",))
def concat(node: Node, *parts: Tensor) -> Tensor:
    """The inputs concatenated along `axis`."""
    return torch.cat(aligned(*parts), node.required("axis"))


@operator("Pad", attributes=("mode", "pads", "value"), host=(1, 2, 3))
def pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Pad x, or crop x where the pads are negative; pads are an attribute below opset 11, then an input."""
    widths = node.required("pads") if pads is None else integers(pads)
    along = range(x.dim()) if axes is None else [axis % x.dim() for axis in integers(axes)]
    begin, end = dict(zip(along, widths, strict=False)), dict(zip(along, widths[len(along) :], strict=True))
    mode = node.attribute("mode", "constant")
    if mode == "constant":
        fill = node.attribute("value", 0.0) if value is None else value.item()
        order = [width for axis in reversed(range(x.dim())) for width in (begin.get(axis, 0), end.get(axis, 0))]
        return F.pad(x, order, value=fill)
    for axis in along:
        positions = torch.arange(-begin[axis], x.shape[axis] + end[axis])
        x = x.index_select(axis, _inside(node, mode, positions, x.shape[axis]).to(x.device))
    return x


def _inside(node: Node, mode: str, positions: Tensor, size: int) -> Tensor:
    """Map positions, which may lie outside an axis of `size` elements, to the indices of the elements to copy."""
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode == "wrap":
        return positions % size
    if mode == "reflect":
        positions = positions % max(2 * size - 2, 1)
        return torch.minimum(positions, 2 * size - 2 - positions) if size > 1 else torch.zeros_like(positions)
    raise node.unsupported(f"mode {mode!r} is not supported")
