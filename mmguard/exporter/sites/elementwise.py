"""Evaluate ONNX's elementwise operators in NumPy, to find out which function a group of nodes computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy import special

Array = npt.NDArray[Any]

PASSING = frozenset(
    {"Cast", "CastLike", "DequantizeLinear", "Dropout", "Expand", "Identity", "QuantizeLinear", "Squeeze", "Unsqueeze"}
)
"""Operators that output the numbers of their first input unchanged, apart from rounding by quantisation."""


def _number(name: str, default: float) -> Callable[[ir.Node], float]:
    return lambda node: node.attributes.get_float(name, default)


_alpha = {
    name: _number("alpha", default)
    for name, default in {
        "Celu": 1.0,
        "Elu": 1.0,
        "HardSigmoid": 0.2,
        "LeakyRelu": 0.01,
        "Selu": 1.67326319217681884765625,
        "Swish": 1.0,
        "ThresholdedRelu": 1.0,
    }.items()
}
_beta, _gamma = _number("beta", 0.5), _number("gamma", 1.05070102214813232421875)
_lambd, _bias = _number("lambd", 0.5), _number("bias", 0.0)


def _clip(node: ir.Node, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    least = node.attributes.get_float("min", -np.inf) if low is None else low
    most = node.attributes.get_float("max", np.inf) if high is None else high
    return np.minimum(np.maximum(x, least), most)


def gelu(x: Array) -> Array:
    """Return Gelu: x · Φ(x), where Φ is the cumulative distribution function of the standard normal distribution.

    Args:
        x: array of any shape.
    """
    curve: Array = x * special.ndtr(x)
    return curve


def gelu_by_tanh(x: Array) -> Array:
    """Return the tanh approximation of Gelu (Hendrycks and Gimpel, 2016).

    Args:
        x: array of any shape.
    """
    curve: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return curve


def mish(x: Array) -> Array:
    """Return Mish: x · tanh(softplus(x)).

    Args:
        x: array of any shape.
    """
    return x * np.tanh(np.logaddexp(0, x))


def shrink(x: Array, threshold: float | Array, bias: float | Array) -> Array:
    """Return Shrink: x moved towards 0 by `bias` where |x| exceeds the threshold, else 0.

    Args:
        x: array of any shape.
        threshold: number, or array that is broadcastable against x.
        bias: number, or array that is broadcastable against x.

    Example:
        >>> shrink(np.array([-2.0, 0.3, 2.0]), 0.5, 0.5).tolist()
        [-1.5, 0.0, 1.5]
    """
    return np.where(np.abs(x) > threshold, x - np.sign(x) * bias, 0.0)


_PLAIN: dict[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Div": np.divide,
    "Erf": special.erf,
    "Exp": np.exp,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Mish": mish,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "PRelu": lambda x, slope: np.where(x > 0, x, slope * x),
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": special.expit,
    "Sign": np.sign,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "Where": np.where,
}

_BY_NODE: dict[str, Callable[..., Array]] = {
    "Celu": lambda n, x: np.maximum(x, 0) + np.minimum(_alpha["Celu"](n) * np.expm1(x / _alpha["Celu"](n)), 0),
    "Clip": _clip,
    "Elu": lambda n, x: np.where(x > 0, x, _alpha["Elu"](n) * np.expm1(x)),
    "Gelu": lambda n, x: gelu_by_tanh(x) if n.attributes.get_string("approximate", "none") == "tanh" else gelu(x),
    "HardSigmoid": lambda n, x: np.clip(_alpha["HardSigmoid"](n) * x + _beta(n), 0, 1),
    "LeakyRelu": lambda n, x: np.where(x > 0, x, _alpha["LeakyRelu"](n) * x),
    "Max": lambda _, *xs: np.maximum.reduce(np.broadcast_arrays(*xs)),
    "Min": lambda _, *xs: np.minimum.reduce(np.broadcast_arrays(*xs)),
    "Selu": lambda n, x: _gamma(n) * np.where(x > 0, x, _alpha["Selu"](n) * np.expm1(x)),
    "Shrink": lambda n, x: shrink(x, _lambd(n), _bias(n)),
    "Sum": lambda _, *xs: sum(xs),
    "Swish": lambda n, x: x * special.expit(_alpha["Swish"](n) * x),
    "ThresholdedRelu": lambda n, x: np.where(x > _alpha["ThresholdedRelu"](n), x, 0.0),
}


FILLING = frozenset({"ConstantOfShape"})
"""Operators whose only input is a shape. Their output is treated as a constant."""


def is_elementwise(node: ir.Node) -> bool:
    """Return whether each number of a node's output depends only on the numbers at the same position in its inputs.

    Args:
        node: a node.
    """
    known = node.domain in ("", "ai.onnx") and (node.op_type in _PLAIN or node.op_type in _BY_NODE)
    return known or node.op_type in PASSING | FILLING


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """Return the data inputs of an elementwise operator, without inputs that specify a shape, a type or a scale.

    Args:
        node: an elementwise node.
    """
    return [value for value in arguments(node) if value is not None]


def arguments(node: ir.Node) -> list[ir.Value | None]:
    """Return the same inputs as `data_inputs`, but with None for each optional input that is omitted.

    Args:
        node: an elementwise node.
    """
    if node.op_type in FILLING:
        return []
    return list(node.inputs[:1] if node.op_type in PASSING else node.inputs)


def apply(node: ir.Node, inputs: list[Array | None]) -> Array:
    """Evaluate an elementwise node.

    Args:
        node: an elementwise node.
        inputs: an array for each of the node's `arguments`, or None for an input that is omitted. The arrays must be
            broadcastable against each other.

    Returns:
        The node's output.
    """
    if node.op_type in PASSING:
        assert inputs[0] is not None, "the first input of these operators is not optional"
        return inputs[0]
    if node.op_type in FILLING:
        value = node.attributes.get("value")
        return np.zeros(1) if value is None else value.as_tensor().numpy().astype(np.float64)
    if node.op_type in _PLAIN:
        return _PLAIN[node.op_type](*inputs)
    return _BY_NODE[node.op_type](node, *inputs)
