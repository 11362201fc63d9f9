"""Operators that find the largest, smallest, non-zero or distinct elements. The positions have no gradient."""

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import integers


@operator("ArgMax", attributes=("axis", "keepdims", "select_last_index"))
@operator("ArgMin", attributes=("axis", "keepdims", "select_last_index"))
def arg(node: Node, x: Tensor) -> Tensor:
    """Index of the largest or smallest element along `axis`: the first one, or the last with `select_last_index`."""
    axis = node.attribute("axis", 0) % x.dim()
    last = bool(node.attribute("select_last_index", 0))
    x = x.flip(axis) if last else x
    best = x.amax(axis, keepdim=True) if node.operator == "ArgMax" else x.amin(axis, keepdim=True)
    at = (x == best).to(torch.uint8).argmax(axis, keepdim=bool(node.attribute("keepdims", 1)))
    return x.shape[axis] - 1 - at if last else at


@operator("Hardmax", attributes=("axis",))
def hardmax(node: Node, x: Tensor) -> Tensor:
    """1 at the first maximum along `axis` (below opset 13, over `axis` and all later axes), 0 elsewhere."""
    if node.version < 13:
        return _first_maximum(x.flatten(node.attribute("axis", 1)), -1).reshape(x.shape)
    return _first_maximum(x, node.attribute("axis", -1))


def _first_maximum(x: Tensor, axis: int) -> Tensor:
    best = (x == x.amax(axis, keepdim=True)).to(torch.uint8).argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1)


@operator("TopK", attributes=("axis", "k", "largest", "sorted"), host=(1,))
def top_k(node: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements along `axis`, sorted, and their positions; equal elements stay in order."""
    count = node.required("k") if k is None else integers(k)[0]
    axis = node.attribute("axis", -1)
    values, positions = torch.sort(x, dim=axis, descending=bool(node.attribute("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), positions.narrow(axis, 0, count)


@operator("NonZero")
def non_zero(node: Node, x: Tensor) -> Tensor:
    """Positions of the non-zero elements, int64 (axes, count)."""
    return x.nonzero().T if x.dim() else x.reshape(1).nonzero().T


@operator("Unique", attributes=("axis", "sorted"))
def unique(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """Distinct elements, or distinct slices along `axis`; also their first positions, inverse indices and counts."""
    axis = node.attribute("axis", None)
    data = x.flatten() if axis is None else x
    _, inverse, counts = torch.unique(data, return_inverse=True, return_counts=True, dim=axis or 0)
    order = torch.arange(len(inverse), device=x.device)
    first = torch.full_like(counts, len(inverse)).scatter_reduce(0, inverse, order, "amin")
    if not node.attribute("sorted", 1):
        ranks = first.argsort()
        first, counts, inverse = first[ranks], counts[ranks], ranks.argsort()[inverse]
    return (data.index_select(axis or 0, first), first, inverse, counts)[: node.outputs]
