"""What a batch must be before a network runs it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.inputs.spec import InputSpec
from mmguard.text.format import some
from mmguard.types import BoolArray


def shape_fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape is the expected one; None there is an axis of any length."""
    return len(shape) == len(expected) and all(w in (None, got) for w, got in zip(expected, shape, strict=True))


def check_batch(x: npt.NDArray[Any], spec: InputSpec) -> None:
    """Refuse a batch that the model would not take.

    Args:
        x: (N, ...) of the model's dtype.

    Raises:
        InputError: not an array of the model's dtype and shape, or rows that are not finite, which it names.
    """
    check_form(x, spec)
    if not np.isfinite(x).all():
        rows = rows_not_finite(x)
        raise InputError(f"input {spec.name!r}: {named(rows)} NaN or infinite", rows=np.flatnonzero(rows).tolist())


def check_form(x: npt.NDArray[Any], spec: InputSpec) -> None:
    """Refuse what is not an array (N, ...) of the model's dtype and shape.

    Raises:
        InputError: it is not.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.dtype(spec.dtype):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        advice = _advice(spec.dtype) if isinstance(x, np.ndarray) else f"use np.asarray(x, {spec.dtype!r})"
        raise InputError(f"input {spec.name!r}: expected a {spec.dtype} NumPy array, got {got}; {advice}")
    if not shape_fits(x.shape, (None, *spec.shape[1:])):  # the guard makes batches of a fixed size of any
        shape = tuple("N" if axis == 0 else size or "any" for axis, size in enumerate(spec.shape))
        hint = "; one input alone needs a batch axis: x[None]" if x.ndim == len(spec.shape) - 1 else ""
        raise InputError(f"input {spec.name!r}: expected shape {shape}, got {x.shape}{hint}".replace("'", ""))


def rows_not_finite(array: npt.NDArray[Any]) -> BoolArray:
    """(N,) bool, rows of an array (N, ...) that hold NaN or infinity."""
    rows: BoolArray = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    return rows


def named(rows: BoolArray) -> str:
    """Marked rows (N,) as the subject of a sentence: `row 3 is`, or `rows 3, 7 are`."""
    numbers = np.flatnonzero(rows).tolist()
    if len(numbers) == 1:
        return f"row {numbers[0]} is"
    return f"rows {some(numbers)} are"


def _advice(dtype: str) -> str:
    if dtype == "uint8":
        return "give the pixels as they are, 0 to 255, neither scaled nor normalised"
    return f"use x.astype('{dtype}')"
