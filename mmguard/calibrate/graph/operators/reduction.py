"""Reductions over one or more axes."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.gradients import finite
from mmguard.calibrate.graph.operators.registry import Kernel, Node, operator
from mmguard.calibrate.graph.operators.tensors import integers

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    total = x.sum(axes, keep, dtype=torch.int64)
    return torch.div(total, x.numel() // max(total.numel(), 1), rounding_mode="trunc").to(x.dtype)


def _by_floats(reduction: Reduction) -> Reduction:
    """Wrap a reduction so that it converts integers to float64, and converts the result back to the integer dtype."""

    def reduced(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        return reduction(x if x.is_floating_point() else x.double(), axes, keep).to(x.dtype)

    return reduced


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.logsumexp(finite(x), axes, keep)


def _norm(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return finite(x.square().sum(axes, keep)).sqrt()


def _extreme(reduction: Reduction, largest: bool) -> Reduction:
    """Wrap a reduction so that the result for an empty tensor is the smallest (or largest) value of the dtype."""

    def reduced(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        if x.numel():
            return reduction(x, axes, keep)
        return x.sum(axes, keep).to(x.dtype).fill_(_limit(x.dtype, largest))

    return reduced


def _limit(dtype: torch.dtype, largest: bool) -> float:
    if dtype.is_floating_point:
        return torch.inf if largest else -torch.inf
    if dtype == torch.bool:
        return largest
    return torch.iinfo(dtype).max if largest else torch.iinfo(dtype).min


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep, dtype=x.dtype),
    "ReduceL2": _by_floats(_norm),
    "ReduceLogSum": _by_floats(lambda x, axes, keep: finite(x.sum(axes, keep)).log()),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme(torch.amax, largest=False),
    "ReduceMean": _mean,
    "ReduceMin": _extreme(torch.amin, largest=True),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype),
}


def _reducer(reduction: Reduction) -> Kernel:
    def kernel(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        if node.operator == "ReduceLogSumExp" and not x.is_floating_point():
            raise node.unsupported("integer inputs are not supported, because ONNX Runtime rounds their exponentials")
        chosen = tuple(integers(axes)) if axes is not None else node.attribute("axes", ())
        if not chosen and node.attribute("noop_with_empty_axes", 0):
            # The elementwise part of the reduction, such as squaring, still applies.
            return reduction(x.unsqueeze(0), (0,), False)
        return reduction(x, chosen or tuple(range(x.dim())), bool(node.attribute("keepdims", 1)))

    return kernel


for _name, _reduction in _REDUCTIONS.items():
    # The axes are an attribute below opset 18 (opset 13 for ReduceSum), and an input from that opset on.
    operator(_name, attributes=("axes", "keepdims", "noop_with_empty_axes"), host=(1,))(_reducer(_reduction))
