"""Quantisation: integers of a scale, with gradients straight through the rounding (arXiv:1308.3432).

A quantised value has its integer dtype, or, where the plan finds that it returns to floats, whole numbers in floats,
which carry the gradient: 1 within the range, 0 where it saturates.
"""

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.convolution import conv
from mmguard.calibrate.graph.operators.gradients import rounded
from mmguard.calibrate.graph.operators.registry import STRAIGHT_THROUGH, Node, operator
from mmguard.calibrate.graph.operators.tensors import along
from mmguard.calibrate.graph.operators.windows import ATTRIBUTES

_QUANTIZE = ("axis", "block_size", "output_dtype", "precision", "saturate")
_LIMITS = {dtype: torch.iinfo(dtype) for dtype in (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)}


def _spread(node: Node, factor: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point against x: one number, one an index of `axis`, or one a block of `block_size` along it."""
    axis, factor = node.attribute("axis", 1), factor.to(x.device)
    if factor.numel() == 1 and factor.dim() < 2:
        return factor.reshape(())
    if factor.dim() == 1:
        return along(factor, axis, x.dim())
    return factor.repeat_interleave(node.required("block_size"), axis).narrow(axis, 0, x.shape[axis])


def _quantized(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None) -> tuple[Tensor, torch.dtype]:
    """Whole numbers in the dtype of the scale, and the integer dtype that they are of."""
    code = node.attribute("output_dtype", 0)
    dtype = zero.dtype if zero is not None else node.dtype(code) if code else torch.uint8
    if dtype not in _LIMITS:
        raise node.unsupported(f"quantisation to {dtype}")
    code = node.attribute("precision", 0)
    x = x.to(node.dtype(code) if code else scale.dtype)
    whole = rounded(x / _spread(node, scale, x).to(x.dtype)).to(torch.promote_types(x.dtype, torch.float32))
    whole = whole if zero is None else whole + _spread(node, zero.to(whole.dtype), x)
    return whole.clamp(_LIMITS[dtype].min, _LIMITS[dtype].max), dtype


@operator("QuantizeLinear", attributes=_QUANTIZE)
@operator("QuantizeLinear", attributes=_QUANTIZE, domain="com.microsoft")
def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """`x / scale` rounded to even, plus the zero point, within the range of the zero point's dtype."""
    whole, dtype = _quantized(node, x, scale, zero)
    return whole.to(dtype)


@operator("QuantizeLinear", attributes=_QUANTIZE, domain=STRAIGHT_THROUGH)
def quantize_straight_through(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """QuantizeLinear in floats."""
    return _quantized(node, x, scale, zero)[0]


@operator("DequantizeLinear", attributes=("axis", "block_size", "output_dtype"))
@operator("DequantizeLinear", attributes=("axis", "block_size", "output_dtype"), domain="com.microsoft")
def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x - zero point) times the scale, in the dtype of the scale or `output_dtype`."""
    code = node.attribute("output_dtype", 0)
    dtype = node.dtype(code) if code else scale.dtype
    wide = torch.promote_types(scale.dtype, torch.float32)
    centred = x.to(wide) if zero is None else x.to(wide) - _spread(node, zero.to(wide), x)
    return (centred * _spread(node, scale, x).to(wide)).to(dtype)


@operator("DynamicQuantizeLinear")
def dynamic_quantize(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """`x` in uint8, by a scale and a zero point from its own range, which is made to hold 0."""
    whole, scale, zero = dynamic_quantize_straight_through(node, x)
    return whole.to(torch.uint8), scale, zero


@operator("DynamicQuantizeLinear", domain=STRAIGHT_THROUGH)
def dynamic_quantize_straight_through(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """DynamicQuantizeLinear in floats; scale and zero point are taken as constants."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((-low / scale).clamp(0, 255))
    return (rounded(x / scale) + zero).clamp(0, 255), scale, zero.to(torch.uint8)


def _centred(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Whole numbers less their zero point, one for each index of an axis or one for all."""
    x = x if x.is_floating_point() else x.float()
    if zero is None:
        return x
    zero = zero.to(x.device, x.dtype)
    return x - (zero if zero.dim() != 1 or zero.numel() == 1 else along(zero, axis, x.dim()))


@operator("MatMulInteger")
def matmul_integer(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """The product of two matrices of whole numbers, each less its zero point: int32."""
    exact = torch.matmul(_centred(a, a_zero, -2).double(), _centred(b, b_zero, -1).double())
    return exact.to(torch.int32)


@operator("MatMulInteger", domain=STRAIGHT_THROUGH)
def matmul_straight_through(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """MatMulInteger in floats."""
    return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))


@operator("ConvInteger", attributes=(*ATTRIBUTES, "group"))
def conv_integer(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """The convolution of whole numbers, each less its zero point: int32."""
    return conv(node, _centred(x, x_zero, 0).double(), _centred(weight, w_zero, 0).double()).to(torch.int32)


@operator("ConvInteger", attributes=(*ATTRIBUTES, "group"), domain=STRAIGHT_THROUGH)
def conv_straight_through(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """ConvInteger in floats."""
    return conv(node, _centred(x, x_zero, 0), _centred(weight, w_zero, 0))
