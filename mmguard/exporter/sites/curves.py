"""Recognise activation functions by their curves.

Exporters and optimisers write the same function in many ways (x · ½ · (1 + erf(x/√2)), x · (½ + ½ erf(x · 0.707)), …),
so nodes are recognised by what they compute, not by how they are arranged.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import special

from mmguard.exporter.sites.elementwise import Array, gelu, gelu_by_tanh, mish, shrink

GRID: Array = np.concatenate([[-30.0], np.linspace(-10, 10, 161), [30.0]])[:, None]
"""The points, (P, 1), at which curves are compared. The outermost points show a curve's limits for large |x|."""

TOLERANCE = 0.004
"""Largest distance between two curves that count as equal, relative to 1 + |x|. This limit is larger than the effect of
rounding constants to bfloat16, and smaller than the distance between Gelu and x · sigmoid(1.702 x)."""

BOUNDED = frozenset({"HardSigmoid", "Sigmoid", "Tanh"})
"""Functions that are used as gates, or to squash logits, more often than as activations between layers."""

STEEPEST = -0.9
"""Lowest slope for negative x that a LeakyRelu may have. The curve |x|, with slope -1, is not an activation."""

QUICK_GELU = 1.702
"""The factor inside the sigmoid of QuickGelu, x · sigmoid(1.702 x)."""


def recognise(y: Array) -> str | None:
    """Recognise an activation function by its curve.

    Args:
        y: (P, C) float64, the values of the function on `GRID` for C channels. The function's parameters may differ
            between channels.

    Returns:
        The name of the function's ONNX operator, or its usual name if ONNX has no such operator; None if the function
        is not known.

    Example:
        >>> recognise(GRID / (1 + np.exp(-GRID)))
        'Swish'
    """
    if y.dtype != np.float64 or len(y) != len(GRID):
        return None
    return _recognised(y.tobytes(), y.shape)


@lru_cache(maxsize=1024)
def _recognised(numbers: bytes, shape: tuple[int, ...]) -> str | None:
    """Recognise a curve that is passed as bytes. Results are cached, because graphs often repeat a curve."""
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
    """Return whether the curve is a straight line, within the tolerance, for every channel."""
    line = _at(y, 0) + GRID * (_at(y, 30) - _at(y, -30)) / 60
    return _spread(y, line) <= TOLERANCE


def _distance(y: Array, curve: Callable[[Array], Array]) -> float:
    with np.errstate(all="ignore"):
        distance = _spread(y, curve(y))
    return round(distance, 6) if np.isfinite(distance) else np.inf


def _spread(y: Array, other: Array) -> float:
    return float((np.abs(y - other) / (1 + np.abs(GRID))).max())


def _at(y: Array, x: float) -> Array:
    """Return the curve at a point of the grid: (C,)."""
    value: Array = y[np.searchsorted(GRID[:, 0], x)]
    return value


def _above(y: Array, negative: Array) -> Array:
    """Return a curve that equals x for positive x, and equals another curve elsewhere."""
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
"""The name of each function, and a callable that computes its curve on `GRID`. The callable estimates the function's
parameters from a curve y (P, C), assuming that y is a curve of this function. If several functions are equally close to
y, the first of them is chosen."""
