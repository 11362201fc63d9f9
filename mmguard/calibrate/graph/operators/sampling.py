"""Sampling of images at positions between pixels."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import alike, integers

_MODES = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "cubic": "bicubic"}


@operator("AffineGrid", attributes=("align_corners",), host=(1,))
def affine_grid(node: Node, theta: Tensor, size: Tensor) -> Tensor:
    """Return a grid of `size` (N, C, spatial), transformed by affine maps theta (N, D, D + 1), as (N, spatial, D)."""
    sizes, corners = integers(size), bool(node.attribute("align_corners", 0))
    if corners and 1 in sizes[2:]:  # ONNX does not specify this case; PyTorch and ONNX Runtime disagree
        raise node.unsupported("align_corners is not supported with an axis of one element")
    return F.affine_grid(theta, sizes, corners)


@operator("GridSample", attributes=("align_corners", "mode", "padding_mode"))
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """Sample x (N, C, spatial) at the positions in grid (N, out, D), where -1 and 1 are the ends of each axis."""
    x, grid = alike(x, grid)
    mode = _MODES[node.attribute("mode", "linear")]
    if mode == "bicubic" and x.dim() != 4:
        raise node.unsupported(f"mode 'cubic' needs 2 spatial axes, but the input has {x.dim() - 2}")
    padding = node.attribute("padding_mode", "zeros")
    return F.grid_sample(x, grid, mode, padding, bool(node.attribute("align_corners", 0)))


@operator("DeformConv", attributes=("dilations", "group", "kernel_shape", "offset_group", "pads", "strides"))
def deform_conv(
    node: Node, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Convolution of x (N, C, H, W) with kernel elements displaced by an offset and weighted by a mask.

    The offset is (N, 2 G K, out), and the mask is (N, G K, out). K is the number of kernel elements, and G is
    `offset_group` (Dai et al. 2017, arXiv:1703.06211).

    Returns:
        The result (N, M, out).
    """
    if x.dim() != 4:
        raise node.unsupported(f"the input has {x.dim() - 2} spatial axes, but only 2 are supported")
    kernel, out = weight.shape[2:], offset.shape[2:]
    groups, taps = node.attribute("offset_group", 1), kernel[0] * kernel[1]
    moved = offset.reshape(len(x), groups, taps, 2, *out)
    strides, dilations = node.attribute("strides", (1, 1)), node.attribute("dilations", (1, 1))
    pads = node.attribute("pads", (0, 0, 0, 0))
    planes = x.reshape(len(x) * groups, -1, *x.shape[2:])
    columns = []
    for tap, (i, j) in enumerate(product(*map(range, kernel))):
        rows, lines = (
            torch.arange(length, device=x.device, dtype=x.dtype) * stride - pad + at * dilation
            for length, stride, pad, at, dilation in zip(out, strides, pads[:2], (i, j), dilations, strict=True)
        )
        y, z = moved[:, :, tap, 0] + rows[:, None], moved[:, :, tap, 1] + lines
        values = _bilinear(planes, y.flatten(0, 1), z.flatten(0, 1)).reshape(len(x), groups, -1, *out)
        columns.append(values if mask is None else values * mask.reshape(len(x), groups, taps, 1, *out)[:, :, tap])
    unfolded = torch.stack(columns, 3).reshape(len(x), node.attribute("group", 1), -1, out[0] * out[1])
    product_ = weight.reshape(node.attribute("group", 1), -1, unfolded.shape[2]) @ unfolded
    result = product_.reshape(len(x), -1, *out)
    return result if bias is None else result + bias[:, None, None]


def _bilinear(planes: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Sample planes (M, C, H, W) at pixel positions (M, h, w), with zeros outside; return (M, C, h, w)."""
    height, width = planes.shape[2:]
    scaled = torch.stack([(2 * z + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    planes, scaled = alike(planes, scaled)
    return F.grid_sample(planes, scaled, "bilinear", "zeros", False)
