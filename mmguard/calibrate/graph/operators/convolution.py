"""Convolutions over one, two or three spatial axes, and transposed convolutions."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import along, integers
from mmguard.calibrate.graph.operators.windows import ATTRIBUTES, pad, window

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def spatial_axes(node: Node, x: Tensor) -> int:
    """Return the number of spatial axes of a tensor.

    Args:
        node: node whose name appears in the error message.
        x: tensor (N, C, spatial).

    Returns:
        The number of axes after the first two.

    Raises:
        UnsupportedOperatorError: the number of spatial axes is not 1, 2 or 3.
    """
    axes = x.dim() - 2
    if axes not in CONVOLUTIONS:
        raise node.unsupported(f"the input has {axes} spatial axes, but only 1 to 3 are supported")
    return axes


@operator("Conv", attributes=(*ATTRIBUTES, "group"))
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution of x (N, C, spatial) with a weight (M, C / group, kernel), plus a bias (M,)."""
    axes = spatial_axes(node, x)
    view = window(node, x.shape[2:], weight.shape[2:])
    padding = view.begin
    if view.begin != view.end:
        x, padding = pad(x, view.begin, view.end), (0,) * axes
    groups = node.attribute("group", 1)
    return CONVOLUTIONS[axes](x, weight, bias, view.strides, padding, view.dilations, groups)


@operator("ConvTranspose", attributes=(*ATTRIBUTES, "group", "output_padding", "output_shape"))
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution of x (N, C, spatial) with a weight (C, M / group, kernel), plus a bias (M,)."""
    axes = spatial_axes(node, x)
    strides: Sequence[int] = node.attribute("strides", (1,) * axes)
    dilations: Sequence[int] = node.attribute("dilations", (1,) * axes)
    full = _TRANSPOSED[axes](x, weight, None, strides, 0, 0, node.attribute("group", 1), dilations)
    extra: Sequence[int] = node.attribute("output_padding", (0,) * axes)
    lengths = [length + more for length, more in zip(full.shape[2:], extra, strict=True)]
    pads = _cropped(node, lengths, [n * s for n, s in zip(x.shape[2:], strides, strict=True)])
    begin = [-before for before, _ in pads]
    result = pad(full, begin, [more - after for more, (_, after) in zip(extra, pads, strict=True)])
    return result if bias is None else result + along(bias, 1, result.dim())


def _cropped(node: Node, lengths: Sequence[int], same: Sequence[int]) -> list[tuple[int, int]]:
    """Return how many elements to crop at each end of each axis; `same` is the output shape in the SAME modes."""
    mode = node.attribute("auto_pad", "NOTSET")
    wanted: Sequence[int] | None = node.attribute("output_shape", same if mode.startswith("SAME") else None)
    if wanted is None:
        pads = node.attribute("pads", (0,) * (2 * len(lengths))) if mode == "NOTSET" else (0,) * (2 * len(lengths))
        return list(zip(pads[: len(lengths)], pads[len(lengths) :], strict=True))
    if "output_shape" not in node.attributes and any(a < b for a, b in zip(lengths, same, strict=True)):
        raise node.unsupported(
            f"auto_pad {mode} is not supported with strides larger than the kernel, because ONNX Runtime then returns "
            "a shorter axis than ONNX specifies"
        )
    totals = [max(0, length - asked) for length, asked in zip(lengths, wanted, strict=True)]
    halves = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    return [(half, length - asked - half) for half, length, asked in zip(halves, lengths, wanted, strict=True)]


@operator("Col2Im", attributes=("dilations", "pads", "strides"), host=(1, 2))
def col2im(node: Node, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """Add the columns of x (N, C * block size, L) to an image (N, C, spatial), as blocks that may overlap."""
    kernel, shape = integers(block), integers(image)
    axes, channels = len(kernel), x.shape[1] // prod(kernel)
    strides, dilations = node.attribute("strides", (1,) * axes), node.attribute("dilations", (1,) * axes)
    pads = node.attribute("pads", (0,) * (2 * axes))
    padded = [length + a + b for length, a, b in zip(shape, pads[:axes], pads[axes:], strict=True)]
    places = _places(padded, kernel, strides, dilations).to(x.device)
    columns = x.reshape(len(x) * channels, -1)
    sums = columns.new_zeros(len(columns), prod(padded))
    filled = sums.index_add(1, places, columns).reshape(len(x), channels, *padded)
    return pad(filled, [-width for width in pads[:axes]], [-width for width in pads[axes:]])


def _places(image: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Return indices in the flattened image of all window elements at all window positions, grouped by element."""
    places = torch.zeros(1, 1, dtype=torch.int64)
    for size, length, stride, dilation in zip(image, kernel, strides, dilations, strict=True):
        starts = torch.arange(0, size - (length - 1) * dilation, stride)
        at = torch.arange(length)[:, None] * dilation + starts
        places = (places[:, None, :, None] * size + at[None, :, None]).flatten(0, 1).flatten(1)
    return places.flatten()


@operator("CausalConvWithState", attributes=("activation",))
def causal_conv(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute a depthwise convolution with a weight (C, 1, k) over the past inputs followed by x (N, C, length).

    Returns:
        The result (N, C, length), and the last k - 1 inputs (N, C, k - 1), which are the past inputs of the next call.
    """
    kept = weight.shape[-1] - 1
    x = F.pad(x, [kept, 0]) if past is None else torch.cat([past, x], -1)
    result = F.conv1d(x, weight, bias, groups=x.shape[1])
    active = node.attribute("activation", "none") in ("silu", "swish")
    return F.silu(result) if active else result, x[..., x.shape[-1] - kept :]
