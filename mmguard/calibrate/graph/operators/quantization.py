"""Quantisation, with straight-through gradients (arXiv:1308.3432).

A quantised value normally has an integer dtype. If the value is later converted back to floats according to the
execution plan, the value is stored as whole numbers in a float dtype instead. The gradient of the rounding is then 1
within the range of the integer dtype, and 0 outside this range.
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
    """Broadcast to x a scale or zero point: one number, one number per index of `axis`, or one number per block."""
    axis, factor = node.attribute("axis", 1), factor.to(x.device)
    if factor.numel() == 1 and factor.dim() < 2:
        return factor.reshape(())
    if factor.dim() == 1:
        return along(factor, axis, x.dim())
    return factor.repeat_interleave(node.required("block_size"), axis).narrow(axis, 0, x.shape[axis])


def _quantized(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None) -> tuple[Tensor, torch.dtype]:
    """Return the quantised x as whole numbers in a float dtype, and the integer dtype specified by ONNX."""
    code = node.attribute("output_dtype", 0)
    dtype = zero.dtype if zero is not None else node.dtype(code) if code else torch.uint8
    if dtype not in _LIMITS:
        raise node.unsupported(f"quantisation to {dtype} is not supported")
    code = node.attribute("precision", 0)
    x = x.to(node.dtype(code) if code else scale.dtype)
    whole = rounded(x / _spread(node, scale, x).to(x.dtype)).to(torch.promote_types(x.dtype, torch.float32))
    whole = whole if zero is None else whole + _spread(node, zero.to(whole.dtype), x)
    return whole.clamp(_LIMITS[dtype].min, _LIMITS[dtype].max), dtype


@operator("QuantizeLinear", attributes=_QUANTIZE)
@operator("QuantizeLinear", attributes=_QUANTIZE, domain="com.microsoft")
def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Round `x / scale` (ties to even), add the zero point, and clip to the range of the zero point's dtype."""
    whole, dtype = _quantized(node, x, scale, zero)
    return whole.to(dtype)


@operator("QuantizeLinear", attributes=_QUANTIZE, domain=STRAIGHT_THROUGH)
def quantize_straight_through(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """QuantizeLinear, with the result stored in a float dtype."""
    return _quantized(node, x, scale, zero)[0]


@operator("DequantizeLinear", attributes=("axis", "block_size", "output_dtype"))
@operator("DequantizeLinear", attributes=("axis", "block_size", "output_dtype"), domain="com.microsoft")
def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """`(x - zero point) * scale`, in `output_dtype` if it is set, else in the dtype of the scale."""
    code = node.attribute("output_dtype", 0)
    dtype = node.dtype(code) if code else scale.dtype
    wide = torch.promote_types(scale.dtype, torch.float32)
    centred = x.to(wide) if zero is None else x.to(wide) - _spread(node, zero.to(wide), x)
    return (centred * _spread(node, scale, x).to(wide)).to(dtype)


@operator("DynamicQuantizeLinear")
def dynamic_quantize(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """Quantise x to uint8. The range is that of x, extended to 0. Return the result, the scale and the zero point."""
    whole, scale, zero = dynamic_quantize_straight_through(node, x)
    return whole.to(torch.uint8), scale, zero


@operator("DynamicQuantizeLinear", domain=STRAIGHT_THROUGH)
def dynamic_quantize_straight_through(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """DynamicQuantizeLinear, with the result stored in a float dtype; scale and zero point have no gradient."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((-low / scale).clamp(0, 255))
    return (rounded(x / scale) + zero).clamp(0, 255), scale, zero.to(torch.uint8)


def _centred(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Subtract the zero point, which is a single number or one number per index of an axis."""
    x = x if x.is_floating_point() else x.float()
    if zero is None:
        return x
    zero = zero.to(x.device, x.dtype)
    return x - (zero if zero.dim() != 1 or zero.numel() == 1 else along(zero, axis, x.dim()))


@operator("MatMulInteger")
def matmul_integer(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """Product of two integer matrices, each minus its zero point, in int32."""
    exact = torch.matmul(_centred(a, a_zero, -2).double(), _centred(b, b_zero, -1).double())
    return exact.to(torch.int32)


@operator("MatMulInteger", domain=STRAIGHT_THROUGH)
def matmul_straight_through(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """MatMulInteger, with the result stored in a float dtype."""
    return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))


@operator("ConvInteger", attributes=(*ATTRIBUTES, "group"))
def conv_integer(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """Convolution of two integer tensors, each minus its zero point, in int32."""
    return conv(node, _centred(x, x_zero, 0).double(), _centred(weight, w_zero, 0).double()).to(torch.int32)


@operator("ConvInteger", attributes=(*ATTRIBUTES, "group"), domain=STRAIGHT_THROUGH)
def conv_straight_through(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """ConvInteger, with the result stored in a float dtype."""
    return conv(node, _centred(x, x_zero, 0), _centred(weight, w_zero, 0))
