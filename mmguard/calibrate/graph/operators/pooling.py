"""Pooling: the maximum, the mean or a norm over a sliding window, or over all spatial axes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.convolution import CONVOLUTIONS, spatial_axes
from mmguard.calibrate.graph.operators.gradients import finite
from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import integers
from mmguard.calibrate.graph.operators.windows import ATTRIBUTES, Window, pad, window

_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _pool_window(node: Node, x: Tensor) -> Window:
    spatial_axes(node, x)
    kernel: Sequence[int] = node.required("kernel_shape")
    return window(node, x.shape[2:], kernel)


@operator("MaxPool", attributes=(*ATTRIBUTES, "ceil_mode", "storage_order"))
def max_pool(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """Maximum of each window of x (N, C, spatial), and, if requested, the index of the maximum in the flattened x."""
    view, dtype = _pool_window(node, x), x.dtype
    pool = _MAX_POOLS[x.dim() - 2]
    x = x if x.is_floating_point() else x.float()
    if view.plain and node.outputs == 1:
        ceil_mode = bool(node.attribute("ceil_mode", 0))
        return (pool(x, view.kernel, view.strides, view.begin, view.dilations, ceil_mode).to(dtype),)
    end = [a + b for a, b in zip(view.end, view.overhang, strict=True)]
    padded = pad(x, view.begin, end, -torch.inf)
    if node.outputs == 1:
        return (pool(padded, view.kernel, view.strides, 0, view.dilations).to(dtype),)
    result, places = pool(padded, view.kernel, view.strides, 0, view.dilations, return_indices=True)
    return result.to(dtype), _positions(node, x, places, padded.shape[2:], view.begin)


def _positions(node: Node, x: Tensor, places: Tensor, padded: Sequence[int], begin: Sequence[int]) -> Tensor:
    """Convert indices in a padded plane to indices in x; `storage_order` 1 means column-major order."""
    coordinates = []
    for size, before in zip(reversed(padded), reversed(begin), strict=True):
        coordinates.append(places % size - before)
        places = places // size
    lengths = list(reversed(x.shape[2:]))
    if node.attribute("storage_order", 0):
        coordinates, lengths = coordinates[::-1], lengths[::-1]
    stride, plane = 1, torch.zeros_like(places)
    for coordinate, length in zip(coordinates, lengths, strict=True):
        plane, stride = plane + coordinate * stride, stride * length
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *[1] * len(lengths))
    return plane + planes * stride


@operator("MaxUnpool", attributes=("kernel_shape", "pads", "strides"), host=(2,))
def max_unpool(node: Node, x: Tensor, places: Tensor, shape: Tensor | None = None) -> Tensor:
    """Write the elements of x into a tensor of zeros of the given `shape`, at the indices returned by MaxPool."""
    kernel: Sequence[int] = node.required("kernel_shape")
    axes = len(kernel)
    strides, pads = node.attribute("strides", (1,) * axes), node.attribute("pads", (0,) * (2 * axes))
    spatial = [
        (n - 1) * stride - before - after + k
        for n, stride, before, after, k in zip(x.shape[2:], strides, pads[:axes], pads[axes:], kernel, strict=True)
    ]
    sizes = [*x.shape[:2], *spatial]
    flat = x.new_zeros(torch.Size(sizes).numel()).scatter(0, places.flatten().to(x.device), x.flatten())
    if shape is None:
        return flat.reshape(sizes)
    # The indices refer to a plane of the default size. Elements that `shape` adds beyond this size stay zero.
    return pad(flat.reshape(sizes), (0,) * axes, [a - b for a, b in zip(integers(shape)[2:], spatial, strict=True)])


@operator("AveragePool", attributes=(*ATTRIBUTES, "ceil_mode", "count_include_pad"))
def average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean of each window of x (N, C, spatial). `count_include_pad` includes padding, but not overhang, in the mean."""
    view = _pool_window(node, x)
    count_pad = bool(node.attribute("count_include_pad", 0))
    if view.plain and all(d == 1 for d in view.dilations):
        ceil_mode = bool(node.attribute("ceil_mode", 0))
        return _AVERAGE_POOLS[x.dim() - 2](x, view.kernel, view.strides, view.begin, ceil_mode, count_pad)
    ones = pad(x.new_ones(1, 1, *x.shape[2:]), view.begin, view.end, float(count_pad))
    return _window_sum(x, view) / _ones_sum(ones, view)


def _window_sum(x: Tensor, view: Window) -> Tensor:
    """Sum each window of x (N, C, spatial), padded with zeros."""
    sums = _ones_sum(pad(x.flatten(0, 1).unsqueeze(1), view.begin, view.end), view)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


def _ones_sum(planes: Tensor, view: Window) -> Tensor:
    """Sum each window of planes (M, 1, spatial) that are already padded."""
    planes = pad(planes, (0,) * len(view.kernel), view.overhang)
    kernel = planes.new_ones(1, 1, *view.kernel)
    return CONVOLUTIONS[len(view.kernel)](planes, kernel, None, view.strides, 0, view.dilations)


@operator("LpPool", attributes=(*ATTRIBUTES, "ceil_mode", "p"))
def lp_pool(node: Node, x: Tensor) -> Tensor:
    """The p-norm of each window of x (N, C, spatial), padded with zeros."""
    order = node.attribute("p", 2)
    return finite(_window_sum(x.abs().pow(order), _pool_window(node, x))).pow(1 / order)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean over all spatial axes, which are kept with length 1."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    """Maximum over all spatial axes, which are kept with length 1."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool", attributes=("p",))
def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    """The p-norm over all spatial axes, which are kept with length 1."""
    order = node.attribute("p", 2)
    return finite(x.abs().pow(order).sum(tuple(range(2, x.dim())), keepdim=True)).pow(1 / order)
