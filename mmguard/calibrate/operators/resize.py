"""Resizing by interpolation, one axis after the other."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmguard.calibrate.operators.registry import Node, operator
from mmguard.calibrate.operators.tensors import integers

_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@operator(
    "Resize",
    attributes=("axes", "coordinate_transformation_mode", "mode", "nearest_mode"),
    host=(1, 2, 3),
)
def resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """`x` with each axis at another length, from scales or sizes; `nearest` and `linear` from opset 11 on."""
    if node.version < 11:
        raise node.unsupported("Resize before opset 11, whose coordinates are not defined")
    mode = node.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    return _resize(node, x, _factors(node, x, scales, sizes), mode, rounding)


@operator("Upsample", attributes=("mode", "scales"), host=(1,))
def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """`x` with each axis scaled: an attribute below opset 9, an input at it; replaced by Resize from 10 on."""
    factors = node.required("scales") if scales is None else scales.tolist()
    lengths = [(axis, int(x.shape[axis] * factor), factor) for axis, factor in enumerate(factors)]
    return _resize(node, x, lengths, "asymmetric", "floor")


def _factors(node: Node, x: Tensor, scales: Tensor | None, sizes: Tensor | None) -> list[tuple[int, int, float]]:
    """Each axis to resize, its new length and its scale."""
    axes = [axis % x.dim() for axis in node.attribute("axes", tuple(range(x.dim())))]
    if sizes is not None and sizes.numel():
        lengths = zip(axes, integers(sizes), strict=True)
        return [(axis, length, length / x.shape[axis]) for axis, length in lengths]
    if scales is None:
        raise node.unsupported("neither scales nor sizes")
    factors = zip(axes, scales.tolist(), strict=True)
    return [(axis, int(x.shape[axis] * factor), factor) for axis, factor in factors]


def _resize(node: Node, x: Tensor, axes: Sequence[tuple[int, int, float]], mode: str, rounding: str) -> Tensor:
    interpolation = node.attribute("mode", "nearest")
    for axis, length, scale in axes:
        if scale == 1:
            continue
        size = x.shape[axis]
        at = _coordinates(node, mode, torch.arange(length, dtype=torch.float64), size, length, scale)
        if interpolation == "nearest":
            x = _take(x, axis, _NEAREST[rounding](at))
        elif interpolation in ("linear", "bilinear"):
            x = _linear(x, axis, at.clamp(0, size - 1))
        else:
            raise node.unsupported(f"mode {interpolation!r}")
    return x


def _coordinates(node: Node, mode: str, at: Tensor, size: int, length: int, scale: float) -> Tensor:
    """Where in the original axis of `size` elements the elements `at` of the resized one lie."""
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        if scale * size != length:  # ONNX and ONNX Runtime disagree on the length that counts
            raise node.unsupported(f"align_corners where scale {scale} makes {size} elements {scale * size}")
        return at * (size - 1) / (length - 1) if length > 1 else at * 0
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and length > 1):
        return (at + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return at * 0
    raise node.unsupported(f"coordinate_transformation_mode {mode!r}")


def _take(x: Tensor, axis: int, at: Tensor) -> Tensor:
    return x.index_select(axis, at.clamp(0, x.shape[axis] - 1).long().to(x.device))


def _linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    weight = (at - at.floor()).to(x.device, x.dtype).reshape(-1, *(1,) * (x.dim() - axis - 1))
    return torch.lerp(_take(x, axis, at.floor()), _take(x, axis, at.floor() + 1), weight)
