"""Arrays that predictors may return instead of logits: probabilities and scores computed from the logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_softmax, softmax

from mmguard.types import FloatArray

Array = npt.NDArray[Any]

PROBE_TOLERANCE = 1e-3
"""Largest accepted difference between the outputs of the predictor and of the model on the bundle's probes.

The difference is relative to the largest output. Differences between kernels or execution providers are far smaller.
"""


@dataclass(frozen=True)
class ProbabilityLayout:
    """How an array represents the class probabilities or their logarithms.

    Attributes:
        to_columns: converts the array (N, ...) to one column per class, (N, K) float64.
        logarithmic: whether these columns equal the logits up to a constant per row. Otherwise, they are probabilities.
        matches: takes an array and the number of classes K, and returns whether the array can have this layout.
    """

    to_columns: Callable[[FloatArray], FloatArray]
    logarithmic: bool
    matches: Callable[[Array, int], bool]


@dataclass(frozen=True)
class LogitTransform:
    """A function that a predictor applies to each row of its logits.

    Attributes:
        apply: computes the array (N, ...) from the logits (N, K).
        layout: how the array represents the probabilities; None if the array contains the logits.
    """

    apply: Callable[[FloatArray], FloatArray]
    layout: ProbabilityLayout | None = None


def _is_matrix(values: Array, classes: int) -> bool:
    return values.shape[1:] == (classes,)


def _is_column(values: Array, classes: int) -> bool:
    return classes == 2 and values.shape[1:] in ((), (1,))


def _both_probabilities(p: FloatArray) -> FloatArray:
    return np.stack([1 - p.reshape(len(p)), p.reshape(len(p))], axis=1)


def _both_logits(s: FloatArray) -> FloatArray:
    return np.stack([np.zeros(len(s)), s.reshape(len(s))], axis=1)


PROBABILITIES = ProbabilityLayout(lambda p: p, logarithmic=False, matches=_is_matrix)
SECOND_OF_TWO = ProbabilityLayout(_both_probabilities, logarithmic=False, matches=_is_column)
LOG_PROBABILITIES = ProbabilityLayout(lambda p: p, logarithmic=True, matches=_is_matrix)
LOGIT_DIFFERENCE = ProbabilityLayout(_both_logits, logarithmic=True, matches=_is_column)
LAYOUTS = (PROBABILITIES, SECOND_OF_TWO, LOG_PROBABILITIES, LOGIT_DIFFERENCE)

LOGITS = LogitTransform(np.array)
SOFTMAX = LogitTransform(lambda logits: softmax(logits, axis=1), PROBABILITIES)
LOG_SOFTMAX = LogitTransform(lambda logits: log_softmax(logits, axis=1), LOG_PROBABILITIES)
SECOND_PROBABILITY = LogitTransform(lambda logits: expit(logits[:, 1] - logits[:, 0]), SECOND_OF_TWO)
SECOND_MINUS_FIRST = LogitTransform(lambda logits: logits[:, 1] - logits[:, 0], LOGIT_DIFFERENCE)
TRANSFORMS = (LOGITS, SOFTMAX, LOG_SOFTMAX, SECOND_PROBABILITY, SECOND_MINUS_FIRST)
"""All supported transforms.

The last two are only for models with two classes. They describe predictors that return an array (N,) or (N, 1).
"""


def identify_transform(found: Array, logits: Array) -> LogitTransform | None:
    """Find the transform that a predictor applies to the logits.

    Args:
        found: the predictor's output (N, ...) on some inputs.
        logits: the logits (N, K) of the same inputs.

    Returns:
        The transform; None if no transform in `TRANSFORMS` produces this output.

    Example:
        >>> logits = np.array([[0.0, 2.0, 1.0]])
        >>> identify_transform(softmax(logits, axis=1), logits) is SOFTMAX
        True
    """
    if found.dtype.kind != "f":
        return None
    for transform in TRANSFORMS:
        layout = transform.layout
        fits = found.shape == logits.shape if layout is None else layout.matches(found, logits.shape[1])
        if not fits:
            continue
        expected = transform.apply(logits.astype(np.float64)).reshape(found.shape)
        if relative_difference(found, expected) <= PROBE_TOLERANCE:
            return transform
    return None


def as_array(output: Any) -> Array:
    """Convert a model output to an array.

    Args:
        output: an array, or a list of maps from classes to numbers.

    Returns:
        The array. Each row contains the values of one map.

    Example:
        >>> as_array([{"cat": 0.5, "dog": 0.25}])
        array([[0.5 , 0.25]])
    """
    return np.array([list(row.values()) for row in output]) if isinstance(output, list) else np.asarray(output)


def relative_difference(got: Array, expected: Array) -> float:
    """Return the largest difference between two arrays, relative to the largest expected value.

    Args:
        got: an array.
        expected: an array of the same shape.

    Returns:
        The largest difference divided by the largest absolute expected value or 1, whichever is larger; infinity if a
        value is NaN. For arrays that do not contain numbers, the fraction of elements that differ.

    Example:
        >>> relative_difference(np.array([1.0, 11.0]), np.array([1.0, 10.0]))
        0.1
    """
    if expected.dtype.kind not in "fiub":
        return float((got != expected).mean())
    a, b = got.astype(np.float64), expected.astype(np.float64)
    return float(np.nan_to_num(np.abs(a - b).max() / max(1.0, np.abs(b).max()), nan=np.inf))
