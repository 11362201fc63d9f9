"""Measure the difference between two results, such as the outputs of one network in two runtimes or in two batches."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def relative_difference(got: Any, expected: Any, equal_nan: bool = False) -> float:
    """Return the largest absolute difference, divided by the largest finite magnitude in `expected`.

    If this magnitude is less than 1, the difference is divided by 1 instead. To test the result,
    use `difference <= tolerance`, which is false if the difference is NaN.

    Args:
        got: the result to check, which is an array (...) or a list of N maps from name to number.
        expected: the expected result, which is also an array or a list of maps.
        equal_nan: whether two NaNs at the same position count as equal.

    Returns:
        The difference. It is 0 if the two results are equal. It is infinity if shapes, dtypes or map keys differ, if
        non-float values differ, or if one value is finite and the other is infinite. It is NaN if a NaN is compared
        with a value that does not count as equal.

    Example:
        >>> relative_difference(np.array([1.0, 8.5]), np.array([1.0, 8.0]))
        0.0625
        >>> relative_difference(np.array([1.0, np.inf]), np.array([1.0, np.inf]))
        0.0
    """
    pair = comparable(got, expected)
    if pair is None:
        return np.inf
    wanted = np.abs(pair[1].astype(np.float64)) if pair[1].dtype.kind == "f" else np.zeros(0)
    largest = float(wanted[np.isfinite(wanted)].max(initial=0.0))
    return absolute_difference(*pair, equal_nan=equal_nan) / max(1.0, largest)


def absolute_difference(got: Any, expected: Any, equal_nan: bool = False) -> float:
    """Return the largest absolute difference between two results.

    Args:
        got: the result to check, which is an array (...) or a list of N maps from name to number.
        expected: the expected result, which is also an array or a list of maps.
        equal_nan: whether two NaNs at the same position count as equal.

    Returns:
        The difference. The values 0, infinity and NaN have the same meaning as in `relative_difference`.

    Example:
        >>> absolute_difference(np.array([1.0, 8.5]), np.array([1.0, 8.0]))
        0.5
        >>> absolute_difference(np.array([1, 2]), np.array([1, 3]))
        inf
    """
    pair = comparable(got, expected)
    if pair is None:
        return np.inf
    a, b = pair
    if b.dtype.kind != "f":
        return 0.0 if (a == b).all() else np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    equal = a == b
    if equal_nan:
        equal |= np.isnan(a) & np.isnan(b)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, but the two are equal
        return float(np.where(equal, 0.0, np.abs(a - b)).max(initial=0.0))


def comparable(got: Any, expected: Any) -> tuple[Array, Array] | None:
    """Return two results as arrays that can be compared element by element, or None if they are not comparable.

    Args:
        got: the result to check, which is an array (...) or a list of N maps from name to number.
        expected: the expected result, which is also an array or a list of maps.

    Returns:
        Two arrays of the same shape and dtype, or None if shapes, dtypes or map keys differ. Maps become arrays of
        their values, (N, number of names).
    """
    if isinstance(got, list) or isinstance(expected, list):
        if type(got) is not type(expected) or [list(row) for row in got] != [list(row) for row in expected]:
            return None
        got, expected = ([list(row.values()) for row in rows] for rows in (got, expected))
    a, b = np.asarray(got), np.asarray(expected)
    return (a, b) if a.shape == b.shape and a.dtype == b.dtype else None
