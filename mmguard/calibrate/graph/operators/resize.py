"""Resizing by interpolation, one axis at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Node, operator
from mmguard.calibrate.graph.operators.tensors import along, integers

_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}

ATTRIBUTES = (
    "antialias",
    "axes",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "mode",
    "nearest_mode",
)


@dataclass(frozen=True)
class _Axis:
    """One axis to resize by `scale`, from `size` to `length` elements; the region of interest is [start, stop]."""

    index: int
    size: int
    length: int
    scale: float
    start: float = 0.0
    stop: float = 1.0


@operator("Resize", attributes=ATTRIBUTES, host=(1, 2, 3))
def resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """Resize x by scales or to sizes. Below opset 11, Resize works like Upsample, and `roi` contains the scales."""
    if node.version < 11:
        return _resize(node, x, _scaled(x, range(x.dim()), [] if roi is None else roi.tolist()), "asymmetric", "simple")
    mode = node.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    axes = _axes(node, x, scales, sizes)
    if mode == "tf_crop_and_resize":
        if roi is None:
            raise node.unsupported(
                "coordinate_transformation_mode 'tf_crop_and_resize' needs the input roi, but the node does not "
                "have this input"
            )
        limits = roi.tolist()
        corners = zip(axes, limits[: len(axes)], limits[len(axes) :], strict=True)
        axes = [_Axis(axis.index, axis.size, axis.length, axis.scale, *part) for axis, *part in corners]
    return _resize(node, x, axes, mode, rounding)


@operator("Upsample", attributes=("mode", "scales"), host=(1,))
def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Resize x by scales (an attribute below opset 9, an input in opset 9). Opset 10 replaced Upsample with Resize."""
    factors = node.required("scales") if scales is None else scales.tolist()
    return _resize(node, x, _scaled(x, range(x.dim()), factors), "asymmetric", "simple")


def _axes(node: Node, x: Tensor, scales: Tensor | None, sizes: Tensor | None) -> list[_Axis]:
    chosen = [axis % x.dim() for axis in node.attribute("axes", tuple(range(x.dim())))]
    if sizes is not None and sizes.numel():
        return _sized(node, x, chosen, integers(sizes))
    if scales is None:
        raise node.unsupported("the node has neither scales nor sizes")
    return _scaled(x, chosen, scales.tolist())


def _scaled(x: Tensor, axes: Sequence[int], scales: Sequence[float]) -> list[_Axis]:
    pairs = zip(axes, scales, strict=True)  # computed in float32, because rounding affects the length
    return [
        _Axis(axis, x.shape[axis], int(np.float32(x.shape[axis]) * np.float32(scale)), scale) for axis, scale in pairs
    ]


def _sized(node: Node, x: Tensor, axes: Sequence[int], lengths: Sequence[int]) -> list[_Axis]:
    scales = [length / x.shape[axis] for axis, length in zip(axes, lengths, strict=True)]
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        scale = min(scales) if policy == "not_larger" else max(scales)
        scales = [scale] * len(axes)
        lengths = [floor(scale * x.shape[axis] + 0.5) for axis in axes]
    return [_Axis(i, x.shape[i], length, scale) for i, length, scale in zip(axes, lengths, scales, strict=True)]


def _resize(node: Node, x: Tensor, axes: Sequence[_Axis], mode: str, rounding: str) -> Tensor:
    dtype, outside = x.dtype, []
    x = x if x.is_floating_point() or node.attribute("mode", "nearest") == "nearest" else x.float()
    for axis in axes:
        if axis.scale == 1 and axis.size == axis.length:
            if (axis.start, axis.stop) != (0, 1):  # ONNX Runtime does not crop in this case
                raise node.unsupported(
                    f"coordinate_transformation_mode {mode!r} is not supported for an axis that is cropped but keeps "
                    "its length"
                )
            continue
        at = _coordinates(node, mode, torch.arange(axis.length, dtype=torch.float32), axis)
        if mode == "tf_crop_and_resize":
            outside.append(along((at < 0) | (at > axis.size - 1), axis.index, x.dim()))
        x = _interpolated(node, x, axis, at, rounding)
    for beyond in outside:
        x = torch.where(beyond.to(x.device), node.attribute("extrapolation_value", 0.0), x)
    return x.to(dtype)


def _interpolated(node: Node, x: Tensor, axis: _Axis, at: Tensor, rounding: str) -> Tensor:
    kind = node.attribute("mode", "nearest")
    if kind == "nearest":
        if rounding == "simple":
            rounding = "ceil" if axis.scale < 1 else "floor"
        return _take(x, axis.index, _NEAREST[rounding](at))
    if kind not in ("linear", "bilinear", "cubic"):
        raise node.unsupported(f"mode {kind!r} is not supported")
    if kind != "cubic" and not node.attribute("antialias", 0) and not node.attribute("exclude_outside", 0):
        return _linear(x, axis.index, at.clamp(0, axis.size - 1))
    return _weighted(node, x, axis, at, _cubic(node) if kind == "cubic" else _tent, 2 if kind == "cubic" else 1)


def _coordinates(node: Node, mode: str, at: Tensor, axis: _Axis) -> Tensor:
    """Convert the positions `at` on the resized axis to positions on the original axis."""
    size, length, scale = axis.size, axis.length, axis.scale
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        if scale * size != length:  # ONNX and ONNX Runtime disagree on which of the two lengths to use
            raise node.unsupported(
                f"align_corners needs a scale that results in a whole number of elements, but {size} * {scale} is "
                f"{scale * size}"
            )
        return at * (size - 1) / (length - 1) if length > 1 else at * 0
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and length > 1):
        return (at + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return at * 0
    if mode == "half_pixel_symmetric":
        return size / 2 * (1 - length / (size * scale)) + (at + 0.5) / scale - 0.5
    if mode == "tf_crop_and_resize":
        if length == 1:
            return at * 0 + 0.5 * (axis.start + axis.stop) * (size - 1)
        return axis.start * (size - 1) + at * (axis.stop - axis.start) * (size - 1) / (length - 1)
    raise node.unsupported(f"coordinate_transformation_mode {mode!r} is not supported")


def _take(x: Tensor, axis: int, at: Tensor) -> Tensor:
    return x.index_select(axis, at.clamp(0, x.shape[axis] - 1).long().to(x.device))


def _linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    weight = (at - at.floor()).to(x.device, x.dtype).reshape(-1, *(1,) * (x.dim() - axis - 1))
    return torch.lerp(_take(x, axis, at.floor()), _take(x, axis, at.floor() + 1), weight)


def _tent(distance: Tensor) -> Tensor:
    """Return the weights for linear interpolation of elements at the given distances."""
    return (1 - distance.abs()).clamp(min=0)


def _cubic(node: Node) -> Callable[[Tensor], Tensor]:
    """Return the weight function of cubic convolution (Keys 1981), with slope `cubic_coeff_a` at distance 1."""
    a = node.attribute("cubic_coeff_a", -0.75)

    def weights(distance: Tensor) -> Tensor:
        d = distance.abs()
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return torch.where(d <= 1, near, torch.where(d < 2, far, 0))

    return weights


def _weighted(node: Node, x: Tensor, axis: _Axis, at: Tensor, kernel: Callable[[Tensor], Tensor], reach: int) -> Tensor:
    """Compute weighted sums of the elements within `reach`, which `antialias` extends if the axis shrinks."""
    antialias = bool(node.attribute("antialias", 0))
    stretch = max(1.0, 1 / axis.scale) if antialias else 1.0
    span = torch.arange(-floor(reach * stretch) - 1, floor(reach * stretch) + 2, dtype=at.dtype)
    neighbours = at.floor()[:, None] + span
    weights = kernel((neighbours - at[:, None]) / stretch)
    if node.attribute("exclude_outside", 0) or antialias:
        inside = (neighbours >= 0) & (neighbours < axis.size)
        weights = torch.where(inside, weights, 0) if node.attribute("exclude_outside", 0) else weights
        weights = weights / weights.sum(1, keepdim=True)
    columns = torch.zeros(axis.length, axis.size, dtype=at.dtype)
    columns.scatter_add_(1, neighbours.clamp(0, axis.size - 1).long(), weights)
    moved = x.movedim(axis.index, -1) @ columns.to(x.device, x.dtype).T
    return moved.movedim(-1, axis.index)
