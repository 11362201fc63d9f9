"""Operators that move or select elements, or set some of them to zero."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import integers


@operator("DepthToSpace", attributes=("blocksize", "mode"))
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Rearrange x (N, C, H, W) to (N, C / b², H b, W b): b² channels of a pixel become a block of b × b pixels."""
    block: int = node.required("blocksize")
    n, channels, height, width = x.shape
    depth = channels // block**2
    if node.attribute("mode", "DCR") == "DCR":
        parts = x.reshape(n, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, depth, height * block, width * block)


@operator("SpaceToDepth", attributes=("blocksize", "mode"))
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Rearrange x (N, C, H b, W b) to (N, C b², H, W); the inverse of DepthToSpace."""
    block: int = node.required("blocksize")
    n, channels, height, width = x.shape
    parts = x.reshape(n, channels, height // block, block, width // block, block)
    order = (0, 3, 5, 1, 2, 4) if node.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(order).reshape(n, channels * block**2, height // block, width // block)


@operator("CenterCropPad", attributes=("axes",), host=(1,))
def center_crop_pad(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """`x` cropped or zero-padded equally at both ends of each of the `axes`, to the given lengths."""
    axes: Sequence[int] = node.attribute("axes", tuple(range(x.dim())))
    for axis, length in zip(axes, integers(shape), strict=True):
        size = x.shape[axis]
        if length <= size:
            x = x.narrow(axis, (size - length) // 2, length)
        else:
            before = (length - size) // 2
            x = F.pad(x, [0, 0] * (x.dim() - 1 - axis % x.dim()) + [before, length - size - before])
    return x


@operator("Trilu", attributes=("upper",), host=(1,))
@operator("Trilu", attributes=("upper",), host=(1,), domain="com.microsoft")
def trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """Upper (or lower) triangle of the last two axes of x, including diagonal k, with zeros elsewhere."""
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if node.attribute("upper", 1) else torch.tril(x, diagonal)


@operator("EyeLike", attributes=("dtype", "k"))
def eye_like(node: Node, x: Tensor) -> Tensor:
    """Matrix of the same shape as x, with ones on diagonal k and zeros elsewhere."""
    code = node.attribute("dtype", 0)
    ones = torch.ones(x.shape, device=x.device)
    diagonal = ones.triu(node.attribute("k", 0)) * ones.tril(node.attribute("k", 0))
    return diagonal.to(node.dtype(code) if code else x.dtype)


@operator("ReverseSequence", attributes=("batch_axis", "time_axis"))
def reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """`x` with the first `lengths[i]` steps of each sample i reversed along `time_axis`."""
    batch, time = node.attribute("batch_axis", 1), node.attribute("time_axis", 0)
    steps = torch.arange(x.shape[time], device=x.device)
    limits = lengths.to(x.device)[:, None]
    order = torch.where(steps < limits, limits - 1 - steps, steps)
    shape = [x.shape[axis] if axis in (batch, time) else 1 for axis in range(x.dim())]
    return x.gather(time, (order if batch < time else order.T).reshape(shape).expand(x.shape))


@operator("Compress", attributes=("axis",), host=(1,))
def compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    """Slices of x along `axis` for which the condition (n,) is true; by default, elements of the flattened x."""
    kept = condition.nonzero().flatten().to(x.device)
    axis = node.attribute("axis", None)
    return x.flatten().index_select(0, kept) if axis is None else x.index_select(axis, kept)
