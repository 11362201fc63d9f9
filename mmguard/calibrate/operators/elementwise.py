"""Arithmetic, comparisons and logic, element by element with NumPy's broadcasting."""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from mmguard.calibrate.operators.registry import Kernel, Node, operator
from mmguard.calibrate.operators.tensors import aligned

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}

_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Kernel:
    def kernel(node: Node, x: Tensor) -> Tensor:
        return function(x)

    return kernel


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    def kernel(node: Node, a: Tensor, b: Tensor) -> Tensor:
        return function(*aligned(a, b))

    return kernel


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    def kernel(node: Node, *operands: Tensor) -> Tensor:
        return reduce(function, aligned(*operands))

    return kernel


for _name, _one in _UNARY.items():
    operator(_name)(_unary(_one))
for _name, _two in _BINARY.items():
    operator(_name)(_binary(_two))
for _name, _two in _VARIADIC.items():
    operator(_name)(_variadic(_two))


@operator("Div")
def div(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """`a / b`; integers are truncated towards zero."""
    a, b = aligned(a, b)
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


@operator("Mod", attributes=("fmod",))
def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The remainder with the sign of b, or with that of a where `fmod` is set."""
    a, b = aligned(a, b)
    return torch.fmod(a, b) if node.attribute("fmod", 0) else torch.remainder(a, b)


@operator("Pow")
def power(node: Node, base: Tensor, exponent: Tensor) -> Tensor:
    """The base to the exponent, in the base's dtype."""
    base, exponent = aligned(base, exponent)
    return torch.pow(base, exponent).to(base.dtype)


@operator("Mean")
def mean(node: Node, *operands: Tensor) -> Tensor:
    """The mean of the operands."""
    return reduce(torch.add, aligned(*operands)) / len(operands)


@operator("Where")
def where(node: Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`x` where the condition holds, else y."""
    condition, x, y = aligned(condition, x, y)
    return torch.where(condition, x, y)
