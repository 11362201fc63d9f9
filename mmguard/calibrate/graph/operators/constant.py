"""Values from nowhere, and values kept as they are or in another dtype."""

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.normalization import TRAINING
from mmguard.calibrate.graph.operators.registry import Node, operator


@operator("Constant", attributes=("value", "value_float", "value_floats", "value_int", "value_ints"))
def constant(node: Node) -> Tensor:
    """The one attribute that is set."""
    (value,) = node.attributes.values()
    if isinstance(value, Tensor):
        return value
    dtype = torch.float32 if "value_float" in node.attributes or "value_floats" in node.attributes else torch.int64
    return torch.tensor(value, dtype=dtype)


@operator("ConstantOfShape", attributes=("value",), host=(0,))
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    """A tensor of one value, float32 zero by default."""
    value: Tensor = node.attribute("value", torch.zeros(1))
    return value.reshape(()).repeat(shape.tolist())


@operator("Range", host=(0, 1, 2))
def arange(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """start, start + delta, ... short of the limit."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Cast", attributes=("to", "saturate", "round_mode"))
def cast(node: Node, x: Tensor) -> Tensor:
    """`x` in the dtype `to`; `saturate` and `round_mode` are about 8-bit floats, which are refused."""
    return x.to(node.dtype(node.required("to")))


@operator("CastLike", attributes=("saturate", "round_mode"), host=(1,))
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """`x` in the dtype of another tensor."""
    return x.to(like.dtype)


@operator("Dropout", attributes=("ratio", "seed"), host=(1, 2))
def dropout(
    node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    """`x` itself, and a mask of ones, as at inference."""
    if training is not None and training.item():
        raise node.unsupported(TRAINING)
    return x if node.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))
