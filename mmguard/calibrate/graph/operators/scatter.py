"""Operators that read or write at positions given by a tensor, and cumulative sums and products."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import aligned, alike, along, integers

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _counted(indices: Tensor, size: int) -> Tensor:
    """Convert negative indices, which count from the end, to non-negative indices."""
    return torch.where(indices < 0, indices + size, indices).long()


@operator("GatherElements", attributes=("axis",))
def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """For each element of `indices`, the element of x at that index along `axis`."""
    axis = node.attribute("axis", 0)
    x, indices = aligned(x, indices)
    return x.gather(axis, _counted(indices, x.shape[axis]))


@operator("GatherND", attributes=("batch_dims",))
def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of x at coordinates (..., k). The first `batch_dims` axes of x and of the coordinates are batch axes."""
    x, indices = aligned(x, indices)
    batch = node.attribute("batch_dims", 0)
    own = [along(torch.arange(x.shape[axis], device=x.device), axis, indices.dim() - 1) for axis in range(batch)]
    return x[tuple(own + _coordinates(indices, x.shape[batch:]))]


def _coordinates(indices: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """Split indices (..., k) into k tensors, one per axis."""
    return [_counted(part, size) for part, size in zip(indices.unbind(-1), shape, strict=False)]


@operator("Scatter", attributes=("axis",))
@operator("ScatterElements", attributes=("axis", "reduction"))
def scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """`x` with the elements at `indices` along `axis` replaced by the updates, or combined with them by `reduction`."""
    axis, reduction = node.attribute("axis", 0), node.attribute("reduction", "none")
    x, updates = alike(x, updates)
    x, indices = aligned(x, indices)
    indices = _counted(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, _REDUCTIONS[reduction])


@operator("ScatterND", attributes=("reduction",))
def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """`x` with the slices at coordinates (..., k) replaced by the updates, or combined with them by `reduction`."""
    x, updates = alike(x, updates)
    x, indices = aligned(x, indices)
    depth, reduction = indices.shape[-1], node.attribute("reduction", "none")
    shape = (-1, *x.shape[depth:])
    slices, updates = x.reshape(shape), updates.reshape(shape)
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for part, size in zip(_coordinates(indices, x.shape), x.shape, strict=False):
        rows = rows * size + part
    at = along(rows.reshape(-1), 0, slices.dim()).expand(updates.shape)
    if reduction == "none":
        return slices.scatter(0, at, updates).reshape(x.shape)
    return slices.scatter_reduce(0, at, updates, _REDUCTIONS[reduction]).reshape(x.shape)


@operator("TensorScatter", attributes=("axis", "mode"))
def tensor_scatter(node: Node, cache: Tensor, update: Tensor, begin: Tensor | None = None) -> Tensor:
    """The cache (N, ...) with the update written along `axis`, from index `begin` (N,) or, by default, 0."""
    cache, update = alike(cache, update)
    axis = node.attribute("axis", -2) % cache.dim()
    at = along(torch.arange(update.shape[axis], device=cache.device), axis, cache.dim())
    if begin is not None:
        at = at + along(begin.to(cache.device), 0, cache.dim())
    at = at % cache.shape[axis] if node.attribute("mode", "linear") == "circular" else at
    return cache.scatter(axis, at.expand(update.shape), update)


@operator("OneHot", attributes=("axis",), host=(1,))
def one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Add an axis of length `depth` that contains values[1] at each index in range, and values[0] elsewhere."""
    (size,) = integers(depth)
    axis = node.attribute("axis", -1) % (indices.dim() + 1)
    at = along(torch.arange(size, device=indices.device), axis, indices.dim() + 1)
    off, on = values.to(indices.device).unbind()
    return torch.where(_wrapped(indices, size).unsqueeze(axis) == at, on, off)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    return torch.where((indices < 0) & (indices >= -size), indices + size, indices)


@operator("CumSum", attributes=("exclusive", "reverse"), host=(1,))
def cumulative_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Cumulative sums of x along an axis. `exclusive` leaves out the element itself; `reverse` sums from the end."""
    return _cumulative(node, x, int(axis), torch.cumsum, 0)


@operator("CumProd", attributes=("exclusive", "reverse"), host=(1,))
def cumulative_product(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Cumulative products of x along an axis, with the same attributes as CumSum."""
    return _cumulative(node, x, int(axis), torch.cumprod, 1)


def _cumulative(node: Node, x: Tensor, axis: int, function: Callable[..., Tensor], start: int) -> Tensor:
    axis, dtype = axis % x.dim(), x.dtype
    x = x.flip(axis) if node.attribute("reverse", 0) else x
    if node.attribute("exclusive", 0):
        x = F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [1, 0], value=start).narrow(axis, 0, x.shape[axis])
    result = function(x, axis, dtype=dtype)
    return result.flip(axis) if node.attribute("reverse", 0) else result
