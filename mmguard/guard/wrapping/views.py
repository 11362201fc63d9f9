"""What predictors answer instead of logits, and the logits of it again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_softmax, softmax

from mmguard.types import FloatArray

Array = npt.NDArray[Any]

PROBE_TOLERANCE = 1e-3
"""Largest difference from the bundle's probes, relative to the largest value: kernels and providers stay well below."""


@dataclass(frozen=True)
class Form:
    """How the classes stand in an array of probabilities, or of their logarithms.

    Attributes:
        columns: from the array (N, ...) to one column a class, (N, K) float64.
        logarithmic: whether these columns are logits already, up to a constant of the row.
        fits: whether an array can be of this form, where there are K classes.
    """

    columns: Callable[[FloatArray], FloatArray]
    logarithmic: bool
    fits: Callable[[Array, int], bool]


@dataclass(frozen=True)
class View:
    """An answer (N, ...) that is made of the logits (N, K) row by row; `form` None is the logits themselves."""

    of: Callable[[FloatArray], FloatArray]
    form: Form | None = None


def _is_matrix(values: Array, classes: int) -> bool:
    return values.shape[1:] == (classes,)


def _is_column(values: Array, classes: int) -> bool:
    return classes == 2 and values.shape[1:] in ((), (1,))


def _both(p: FloatArray) -> FloatArray:
    return np.stack([1 - p.reshape(len(p)), p.reshape(len(p))], axis=1)


PROBABILITIES = Form(lambda p: p, logarithmic=False, fits=_is_matrix)
SECOND_OF_TWO = Form(_both, logarithmic=False, fits=_is_column)
LOG_PROBABILITIES = Form(lambda p: p, logarithmic=True, fits=_is_matrix)
DIFFERENCE = Form(lambda s: np.stack([np.zeros(len(s)), s.reshape(len(s))], axis=1), logarithmic=True, fits=_is_column)
FORMS = (PROBABILITIES, SECOND_OF_TWO, LOG_PROBABILITIES, DIFFERENCE)

LOGITS = View(np.array)
SOFTMAX = View(lambda logits: softmax(logits, axis=1), PROBABILITIES)
LOG_SOFTMAX = View(lambda logits: log_softmax(logits, axis=1), LOG_PROBABILITIES)
SECOND_PROBABILITY = View(lambda logits: expit(logits[:, 1] - logits[:, 0]), SECOND_OF_TWO)
SECOND_LESS_FIRST = View(lambda logits: logits[:, 1] - logits[:, 0], DIFFERENCE)
VIEWS = (LOGITS, SOFTMAX, LOG_SOFTMAX, SECOND_PROBABILITY, SECOND_LESS_FIRST)
"""The last two are of two classes, (N,) or (N, 1)."""


def find_view(found: Array, logits: Array) -> View | None:
    """The view of the logits (N, K) that an array is, as far as these N rows tell; None where it is not one."""
    if found.dtype.kind != "f":
        return None
    for view in VIEWS:
        fits = found.shape == logits.shape if view.form is None else view.form.fits(found, logits.shape[1])
        if fits and difference(found, view.of(logits.astype(np.float64)).reshape(found.shape)) <= PROBE_TOLERANCE:
            return view
    return None


def as_array(output: Any) -> Array:
    """An output as an array; maps by their values."""
    return np.array([list(row.values()) for row in output]) if isinstance(output, list) else np.asarray(output)


def difference(got: Array, wanted: Array) -> float:
    """Largest difference over the largest value (at least 1); where values are not numbers, the share that differs."""
    if wanted.dtype.kind not in "fiub":
        return float((got != wanted).mean())
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    return float(np.nan_to_num(np.abs(a - b).max() / max(1.0, np.abs(b).max()), nan=np.inf))
