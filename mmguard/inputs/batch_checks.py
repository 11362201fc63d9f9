"""Check a batch before a network runs on it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.inputs.spec import InputSpec
from mmguard.text.format import first_few
from mmguard.types import BoolArray


def shape_fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Return whether a shape matches an expected shape.

    Args:
        shape: shape of an array.
        expected: the length of each axis; None allows any length.

    Returns:
        Whether the number of axes and all fixed lengths match.

    Example:
        >>> shape_fits((8, 3, 32, 32), (None, 3, 32, 32))
        True
        >>> shape_fits((8, 32, 32), (None, 3, 32, 32))
        False
    """
    return len(shape) == len(expected) and all(w in (None, got) for w, got in zip(expected, shape, strict=True))


def check_batch(x: npt.NDArray[Any], spec: InputSpec) -> None:
    """Check that a batch has the dtype and shape of the model's input, and that all its values are finite.

    Args:
        x: (N, ...) array of the model's dtype.
        spec: description of the model's input.

    Raises:
        InputError: `x` is not an array of the model's dtype and shape, or some rows contain NaN or infinity; the
            `rows` attribute of the error lists these rows.
    """
    check_dtype_and_shape(x, spec)
    if not np.isfinite(x).all():
        rows = rows_not_finite(x)
        raise InputError(
            f"input {spec.name!r}: {rows_are(rows)} NaN or infinite values", rows=np.flatnonzero(rows).tolist()
        )


def check_dtype_and_shape(x: npt.NDArray[Any], spec: InputSpec) -> None:
    """Check that a batch is an array with the dtype and shape of the model's input; the values are not checked.

    Args:
        x: (N, ...) array of the model's dtype. N may be any number, because the guard splits and pads batches for a
            model with a fixed batch size.
        spec: description of the model's input.

    Raises:
        InputError: `x` is not an array, or its dtype or shape differs from that of the model's input.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.dtype(spec.dtype):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        hint = _conversion_hint(spec.dtype) if isinstance(x, np.ndarray) else f"use np.asarray(x, {spec.dtype!r})"
        raise InputError(f"input {spec.name!r}: expected a {spec.dtype} NumPy array, got {got}; {hint}")
    if not shape_fits(x.shape, (None, *spec.shape[1:])):
        shape = tuple("N" if axis == 0 else size or "any" for axis, size in enumerate(spec.shape))
        hint = "; add a batch axis to a single input: x[None]" if x.ndim == len(spec.shape) - 1 else ""
        raise InputError(f"input {spec.name!r}: expected shape {shape}, got {x.shape}{hint}".replace("'", ""))


def rows_not_finite(array: npt.NDArray[Any]) -> BoolArray:
    """Mark the rows of an array that contain NaN or infinity.

    Args:
        array: (N, ...) numbers.

    Returns:
        (N,) bool, True for each row that contains NaN or infinity.

    Example:
        >>> rows_not_finite(np.array([[0.0, 1.0], [np.nan, 2.0]])).tolist()
        [False, True]
    """
    rows: BoolArray = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    return rows


def rows_are(rows: BoolArray) -> str:
    """Return the beginning of an error message: the numbers of the marked rows, and the verb `contains` or `contain`.

    Args:
        rows: (N,) bool, True for each row to list.

    Returns:
        Text such as `row 3 contains` or `rows 3, 7 contain`. At most five row numbers are listed,
            followed by the number of marked rows that are not listed.

    Example:
        >>> rows_are(np.array([False, True, True]))
        'rows 1, 2 contain'
    """
    numbers = np.flatnonzero(rows).tolist()
    if len(numbers) == 1:
        return f"row {numbers[0]} contains"
    return f"rows {first_few(numbers)} contain"


def _conversion_hint(dtype: str) -> str:
    """Return advice on how to convert an array to the model's dtype."""
    if dtype == "uint8":
        return "pass raw pixels from 0 to 255, not scaled or normalised"
    return f"use x.astype('{dtype}')"
