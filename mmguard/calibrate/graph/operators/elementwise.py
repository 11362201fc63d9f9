"""Elementwise arithmetic, comparisons and logic, with NumPy's broadcasting."""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.gradients import finite
from mmguard.calibrate.graph.operators.registry import Kernel, Node, operator
from mmguard.calibrate.graph.operators.tensors import STORED, aligned

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Round": torch.round,
    "Sign": lambda x: torch.where(x.isnan(), x, torch.sign(x)),
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Tan": torch.tan,
}

_SINGULAR: dict[str, Callable[[Tensor], Tensor]] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Atanh": torch.atanh,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Sqrt": torch.sqrt,
}
"""Functions whose derivative is infinite at some point."""

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


def _computed(node: Node, function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """Apply the function, but first convert to int64 any integers that PyTorch can store but not compute with."""
    dtype = operands[0].dtype
    if dtype not in STORED:
        result: Tensor = function(*operands)
        return result
    if dtype == torch.uint64 and any(bool((operand.view(torch.int64) < 0).any()) for operand in operands):
        raise node.unsupported("integers of 2^63 or more are not supported")
    result = function(*(operand.to(torch.int64) for operand in operands))
    return result.to(dtype) if result.dtype == torch.int64 else result


def _unary(function: Callable[[Tensor], Tensor]) -> Kernel:
    def kernel(node: Node, x: Tensor) -> Tensor:
        return _computed(node, function, x)

    return kernel


def _singular(function: Callable[[Tensor], Tensor]) -> Kernel:
    def kernel(node: Node, x: Tensor) -> Tensor:
        return function(finite(x))

    return kernel


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    def kernel(node: Node, *operands: Tensor) -> Tensor:
        return _computed(node, lambda *tensors: reduce(function, tensors), *aligned(*operands))

    return kernel


for _name, _one in _UNARY.items():
    operator(_name)(_unary(_one))
for _name, _one in _SINGULAR.items():
    operator(_name)(_singular(_one))
for _name, _many in (_BINARY | _VARIADIC).items():
    operator(_name)(_variadic(_many))


@operator("Div")
def div(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """`a / b`; integer results are truncated towards zero."""
    a, b = aligned(a, b)
    if a.is_floating_point() or b.is_floating_point():
        return finite(a) / finite(b)
    return _computed(node, lambda p, q: torch.div(p, q, rounding_mode="trunc"), a, b)


@operator("Mod", attributes=("fmod",))
def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Remainder of a / b, with the sign of b, or with the sign of a if `fmod` is set."""
    return _computed(node, torch.fmod if node.attribute("fmod", 0) else torch.remainder, *aligned(a, b))


@operator("Pow")
def power(node: Node, base: Tensor, exponent: Tensor) -> Tensor:
    """`base` to the power of `exponent`, in the dtype of the base; powers of integers are computed in float64."""
    base, exponent = aligned(base, exponent)
    if not base.is_floating_point():
        return torch.pow(base.double(), exponent.double()).to(base.dtype)
    return torch.pow(finite(base), finite(exponent)).to(base.dtype)


@operator("IsInf", attributes=("detect_negative", "detect_positive"))
def is_inf(node: Node, x: Tensor) -> Tensor:
    """Whether x is +inf or -inf; each of the two checks can be disabled by an attribute."""
    signs = (("detect_positive", torch.inf), ("detect_negative", -torch.inf))
    found = [x == limit for name, limit in signs if node.attribute(name, 1)]
    return reduce(torch.logical_or, found, torch.zeros_like(x, dtype=torch.bool))


@operator("Det")
def determinant(node: Node, x: Tensor) -> Tensor:
    """Determinants of matrices (..., n, n)."""
    result: Tensor = torch.linalg.det(x)
    return result


@operator("Mean")
def mean(node: Node, *operands: Tensor) -> Tensor:
    """Mean of the operands."""
    return reduce(torch.add, aligned(*operands)) / len(operands)


@operator("Where")
def where(node: Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`x` where the condition is true, else y."""
    condition, x, y = aligned(condition, x, y)
    return torch.where(condition, x, y)
