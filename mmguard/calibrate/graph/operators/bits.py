"""Bitwise operators. They are computed with NumPy, which supports integers of every width, and have no gradient."""

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
    """Shift the bits of x by the number of places in `by`, in the given direction (LEFT or RIGHT)."""
    return _by_numpy(np.left_shift if node.required("direction") == "LEFT" else np.right_shift, x, by)


@operator("BitCast", attributes=("to",))
def bit_cast(node: Node, x: Tensor) -> Tensor:
    """`x` with its bits reinterpreted as a different dtype of the same width."""
    if node.widen:
        raise node.unsupported("the operator reads the bits of floats, but mmguard converts all floats to float32")
    return x.view(node.dtype(node.required("to")))
