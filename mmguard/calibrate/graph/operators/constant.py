"""Constants, casts, and Dropout, which does nothing at inference."""

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.normalization import TRAINING
from mmguard.calibrate.graph.operators.registry import Node, operator


@operator("Constant", attributes=("value", "value_float", "value_floats", "value_int", "value_ints"))
def constant(node: Node) -> Tensor:
    """The value of the constant, from the one attribute that the node has."""
    (value,) = node.attributes.values()
    if isinstance(value, Tensor):
        return value
    dtype = torch.float32 if "value_float" in node.attributes or "value_floats" in node.attributes else torch.int64
    return torch.tensor(value, dtype=dtype)


@operator("ConstantOfShape", attributes=("value",), host=(0,))
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    """Tensor of the given shape, filled with a single value, by default a float32 zero."""
    value: Tensor = node.attribute("value", torch.zeros(1))
    return value.reshape(()).repeat(shape.tolist())


@operator("Range", host=(0, 1, 2))
def arange(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """The numbers start, start + delta, start + 2 delta, ... up to, but not including, the limit."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Cast", attributes=("to", "saturate", "round_mode"))
def cast(node: Node, x: Tensor) -> Tensor:
    """`x` in the dtype `to`; `saturate` and `round_mode` only matter for 8-bit floats, which are not supported."""
    return x.to(node.dtype(node.required("to")))


@operator("CastLike", attributes=("saturate", "round_mode"), host=(1,))
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """`x` in the dtype of another tensor."""
    return x.to(like.dtype)


@operator("Dropout", attributes=("ratio", "seed"), host=(1, 2))
def dropout(
    node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    """Return x unchanged, because dropout is inactive at inference; for a second output, also return a mask of ones."""
    if training is not None and training.item():
        raise node.unsupported(TRAINING)
    return x if node.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))
