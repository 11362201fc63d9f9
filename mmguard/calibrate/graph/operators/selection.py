"""Where the largest, the smallest, or the non-zero elements are. Positions have no gradient, the elements do."""

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import integers


@operator("ArgMax", attributes=("axis", "keepdims", "select_last_index"))
@operator("ArgMin", attributes=("axis", "keepdims", "select_last_index"))
def arg(node: Node, x: Tensor) -> Tensor:
    """Position of the extreme element along `axis`: the first of equal ones, or the last."""
    axis = node.attribute("axis", 0) % x.dim()
    last = bool(node.attribute("select_last_index", 0))
    x = x.flip(axis) if last else x
    best = x.amax(axis, keepdim=True) if node.operator == "ArgMax" else x.amin(axis, keepdim=True)
    at = (x == best).to(torch.uint8).argmax(axis, keepdim=bool(node.attribute("keepdims", 1)))
    return x.shape[axis] - 1 - at if last else at


@operator("Hardmax", attributes=("axis",))
def hardmax(node: Node, x: Tensor) -> Tensor:
    """1 at the first maximum along `axis`, else 0; below opset 13 over all axes from `axis` on."""
    if node.version < 13:
        return _first_maximum(x.flatten(node.attribute("axis", 1)), -1).reshape(x.shape)
    return _first_maximum(x, node.attribute("axis", -1))


def _first_maximum(x: Tensor, axis: int) -> Tensor:
    best = (x == x.amax(axis, keepdim=True)).to(torch.uint8).argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1)


@operator("TopK", attributes=("axis", "k", "largest", "sorted"), host=(1,))
def top_k(node: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements along `axis` in order, then their positions; of equal ones the first."""
    count = node.required("k") if k is None else integers(k)[0]
    axis = node.attribute("axis", -1)
    values, positions = torch.sort(x, dim=axis, descending=bool(node.attribute("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), positions.narrow(axis, 0, count)


@operator("NonZero")
def non_zero(node: Node, x: Tensor) -> Tensor:
    """Positions of the elements that are not zero: int64 (axes, count)."""
    return x.nonzero().T if x.dim() else x.reshape(1).nonzero().T


@operator("Unique", attributes=("axis", "sorted"))
def unique(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """The distinct elements (or slices along `axis`); where each is first, its index at each element, its count."""
    axis = node.attribute("axis", None)
    data = x.flatten() if axis is None else x
    _, inverse, counts = torch.unique(data, return_inverse=True, return_counts=True, dim=axis or 0)
    order = torch.arange(len(inverse), device=x.device)
    first = torch.full_like(counts, len(inverse)).scatter_reduce(0, inverse, order, "amin")
    if not node.attribute("sorted", 1):
        ranks = first.argsort()
        first, counts, inverse = first[ranks], counts[ranks], ranks.argsort()[inverse]
    return (data.index_select(axis or 0, first), first, inverse, counts)[: node.outputs]
