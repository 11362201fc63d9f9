"""Reductions over axes."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmguard.calibrate.operators.registry import Kernel, Node, operator
from mmguard.calibrate.operators.tensors import integers

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: torch.norm(x, 2, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype),
}


def _reducer(reduction: Reduction) -> Kernel:
    def kernel(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = tuple(integers(axes)) if axes is not None else node.attribute("axes", ())
        if not chosen and node.attribute("noop_with_empty_axes", 0):
            return x
        if x.numel() == 0 and node.operator in ("ReduceMax", "ReduceMin"):
            raise node.unsupported("an empty tensor")
        return reduction(x, chosen or tuple(range(x.dim())), bool(node.attribute("keepdims", 1)))

    return kernel


for _name, _reduction in _REDUCTIONS.items():
    # The axes are an attribute below opset 18 (ReduceSum: 13) and an input from it on; a node has one or neither.
    operator(_name, attributes=("axes", "keepdims", "noop_with_empty_axes"), host=(1,))(_reducer(_reduction))
