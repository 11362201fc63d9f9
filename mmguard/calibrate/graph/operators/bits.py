"""Bits of integers, by NumPy, which knows all their widths. They carry no gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.registry import Kernel, Node, operator

_BITWISE: dict[str, Callable[..., Any]] = {
    "BitwiseAnd": np.bitwise_and,
    "BitwiseNot": np.invert,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}


def _by_numpy(function: Callable[..., Any], *operands: Tensor) -> Tensor:
    result = torch.from_numpy(np.asarray(function(*(operand.cpu().numpy() for operand in operands))))
    return result.to(operands[0].device)


def _bitwise(function: Callable[..., Any]) -> Kernel:
    def kernel(node: Node, *operands: Tensor) -> Tensor:
        return _by_numpy(function, *operands)

    return kernel


for _name, _function in _BITWISE.items():
    operator(_name)(_bitwise(_function))


@operator("BitShift", attributes=("direction",))
def bit_shift(node: Node, x: Tensor, by: Tensor) -> Tensor:
    """The bits of x moved by `by` places to the LEFT or RIGHT."""
    return _by_numpy(np.left_shift if node.required("direction") == "LEFT" else np.right_shift, x, by)


@operator("BitCast", attributes=("to",))
def bit_cast(node: Node, x: Tensor) -> Tensor:
    """The bits of x read as another dtype of the same width."""
    if node.widen:
        raise node.unsupported("bits of a number that is in float32 here")
    return x.view(node.dtype(node.required("to")))
