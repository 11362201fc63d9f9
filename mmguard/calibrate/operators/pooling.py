"""Pools: the maximum or the mean of a sliding window, or of all spatial axes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.operators.convolution import CONVOLUTIONS
from mmguard.calibrate.operators.registry import Node, operator
from mmguard.calibrate.operators.windows import ATTRIBUTES, Window, pad, window

_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _pool_window(node: Node, x: Tensor) -> Window:
    if x.dim() - 2 not in _MAX_POOLS:
        raise node.unsupported(f"{x.dim() - 2} spatial axes, where 1 to 3 are known")
    kernel: Sequence[int] = node.required("kernel_shape")
    return window(node, x.shape[2:], kernel)


@operator("MaxPool", attributes=(*ATTRIBUTES, "ceil_mode", "storage_order"))
def max_pool(node: Node, x: Tensor) -> Tensor:
    """`x` (N, C, spatial). The second output, the indices, is refused."""
    if node.outputs > 1:
        raise node.unsupported("the output Indices")
    view = _pool_window(node, x)
    if not x.is_floating_point():
        raise node.unsupported(f"dtype {x.dtype}")
    pool = _MAX_POOLS[x.dim() - 2]
    if view.plain:
        ceil_mode = bool(node.attribute("ceil_mode", 0))
        return pool(x, view.kernel, view.strides, view.begin, view.dilations, ceil_mode)
    end = [a + b for a, b in zip(view.end, view.overhang, strict=True)]
    padded = pad(x, view.begin, end, -torch.inf)
    return pool(padded, view.kernel, view.strides, 0, view.dilations)


@operator("AveragePool", attributes=(*ATTRIBUTES, "ceil_mode", "count_include_pad"))
def average_pool(node: Node, x: Tensor) -> Tensor:
    """`x` (N, C, spatial). Padding counts in the mean if `count_include_pad`; what `ceil_mode` adds never does."""
    view = _pool_window(node, x)
    count_pad = bool(node.attribute("count_include_pad", 0))
    if view.plain and all(d == 1 for d in view.dilations):
        ceil_mode = bool(node.attribute("ceil_mode", 0))
        return _AVERAGE_POOLS[x.dim() - 2](x, view.kernel, view.strides, view.begin, ceil_mode, count_pad)
    ones = pad(x.new_ones(1, 1, *x.shape[2:]), view.begin, view.end, float(count_pad))
    planes = pad(x.flatten(0, 1).unsqueeze(1), view.begin, view.end)
    means = _window_sum(planes, view) / _window_sum(ones, view)
    return means.reshape(*x.shape[:2], *means.shape[2:])


def _window_sum(planes: Tensor, view: Window) -> Tensor:
    """Sums of windows over padded planes (M, 1, spatial)."""
    planes = pad(planes, (0,) * len(view.kernel), view.overhang)
    kernel = planes.new_ones(1, 1, *view.kernel)
    return CONVOLUTIONS[len(view.kernel)](planes, kernel, None, view.strides, 0, view.dilations)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    """The mean over every spatial axis, which stay with length 1."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    """The maximum over every spatial axis, which stay with length 1."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)
