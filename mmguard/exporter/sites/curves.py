"""Tell activation functions by their curves.

Exporters and optimisers write one function in many orders (x · ½ · (1 + erf(x/√2)), x · (½ + ½ erf(x · 0.707)), …), so
what nodes compute says more than how they stand.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import special

from mmguard.exporter.sites.elementwise import Array, gelu, gelu_by_tanh, mish, shrink

GRID: Array = np.concatenate([[-30.0], np.linspace(-10, 10, 161), [30.0]])[:, None]
"""(P, 1) points at which curves are compared; the outermost tell where one leads."""

TOLERANCE = 0.004
"""Largest distance of two curves, relative to 1 + |x|: above what constants lose in bfloat16, below what tells Gelu
from x · sigmoid(1.702 x)."""

BOUNDED = frozenset({"HardSigmoid", "Sigmoid", "Tanh"})
"""Functions that gate, or that squash the logits, more often than they activate a layer."""

STEEPEST = -0.9
"""Least slope of a LeakyRelu where x is negative; |x|, which has -1, is a length rather than an activation."""

QUICK_GELU = 1.702
"""Its factor within the sigmoid."""


def recognise(y: Array) -> str | None:
    """The activation whose curve this is, by the name of ONNX's operator where it has one.

    Args:
        y: (P, C) float64, the function on `GRID`, for one or several channels with parameters of their own.
    """
    if y.dtype != np.float64 or len(y) != len(GRID):
        return None
    return _recognised(y.tobytes(), y.shape)


@lru_cache(maxsize=1024)
def _recognised(numbers: bytes, shape: tuple[int, ...]) -> str | None:
    """The same; graphs have the same curves over and over."""
    y = np.frombuffer(numbers).reshape(shape)
    if not np.isfinite(y).all() or _is_affine(y):
        return None
    distance, name = min(((_distance(y, curve), name) for name, curve in CURVES), key=lambda each: each[0])
    if distance > TOLERANCE:
        return None
    if name == "Swish" and np.abs(_swish_factor(y) - QUICK_GELU).max() < 0.01:
        return "QuickGelu"
    return name


def _is_affine(y: Array) -> bool:
    """Whether it is a straight line, within the tolerance, for every channel."""
    line = _at(y, 0) + GRID * (_at(y, 30) - _at(y, -30)) / 60
    return _spread(y, line) <= TOLERANCE


def _distance(y: Array, curve: Callable[[Array], Array]) -> float:
    with np.errstate(all="ignore"):
        distance = _spread(y, curve(y))
    return round(distance, 6) if np.isfinite(distance) else np.inf


def _spread(y: Array, other: Array) -> float:
    return float((np.abs(y - other) / (1 + np.abs(GRID))).max())


def _at(y: Array, x: float) -> Array:
    """The curve at a point of the grid: (C,)."""
    value: Array = y[np.searchsorted(GRID[:, 0], x)]
    return value


def _above(y: Array, negative: Array) -> Array:
    """The identity where x is positive, another curve where it is not."""
    return np.where(GRID > 0, GRID, negative)


def _clip(y: Array) -> Array:
    low, high = _at(y, -30), _at(y, 30)
    return np.clip(GRID, np.minimum(low, high), high)


def _celu(y: Array) -> Array:
    return _above(y, -_at(y, -30) * np.expm1(-GRID / _at(y, -30)))


def _hard_sigmoid(y: Array) -> Array:
    slope = 4 * (_at(y, 0.125) - _at(y, -0.125))
    line: Array = slope * GRID + _at(y, 0)
    return np.clip(line, 0, 1)


def _shrink(y: Array) -> Array:
    zero = np.abs(y) <= TOLERANCE
    threshold = np.where(zero & zero[::-1], np.abs(GRID), 0).max(axis=0)
    return shrink(GRID, threshold, 30 - _at(y, 30))


def _softplus(y: Array) -> Array:
    factor = np.log(2) / np.maximum(_at(y, 0), 0)
    curve: Array = np.logaddexp(0, factor * GRID) / factor
    return curve


def _swish_factor(y: Array) -> Array:
    factor: Array = special.logit(_at(y, 1))
    return factor


def _thresholded(y: Array) -> Array:
    kept = np.abs(y - GRID) <= TOLERANCE * (1 + np.abs(GRID))
    return np.where(np.logical_and.accumulate(kept[::-1])[::-1], GRID, _at(y, -30))


CURVES: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("Relu", lambda y: np.maximum(GRID, 0)),
    ("LeakyRelu", lambda y: _above(y, np.maximum(-_at(y, -1), STEEPEST) * GRID)),
    ("Gelu", lambda y: gelu(GRID)),
    ("Gelu", lambda y: gelu_by_tanh(GRID)),
    ("Swish", lambda y: GRID * special.expit(_swish_factor(y) * GRID)),
    ("HardSwish", lambda y: GRID * np.clip(GRID / 6 + 0.5, 0, 1)),
    ("Mish", lambda y: mish(GRID)),
    ("Elu", lambda y: _above(y, -_at(y, -30) * np.expm1(GRID))),
    ("Celu", _celu),
    ("Selu", lambda y: 1.0507010 * _above(y, 1.6732632 * np.expm1(GRID))),
    ("Softplus", _softplus),
    ("Softsign", lambda y: GRID / (1 + np.abs(GRID))),
    ("LogSigmoid", lambda y: -np.logaddexp(0, -GRID)),
    ("Tanhshrink", lambda y: GRID - np.tanh(GRID)),
    ("Clip", _clip),
    ("ThresholdedRelu", _thresholded),
    ("Shrink", _shrink),
    ("HardSigmoid", _hard_sigmoid),
    ("Sigmoid", lambda y: special.expit(GRID)),
    ("Tanh", lambda y: np.tanh(GRID)),
)
"""Each function on `GRID`, with the parameters that y (P, C) would have if it were one. Of equally near ones the first
counts."""
