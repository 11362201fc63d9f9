"""Least squares with one slope that several groups share."""

import numpy as np

from mmguard.types import FloatArray, IntArray


def within(values: FloatArray, groups: IntArray, count: int) -> FloatArray:
    """Subtract from each value the mean of the value's group.

    Args:
        values: (n,) float64.
        groups: (n,) int64, the group of each value.
        count: number of groups.

    Returns:
        (n,) float64.
    """
    means = np.bincount(groups, values, count) / np.maximum(np.bincount(groups, minlength=count), 1)
    centred: FloatArray = values - means[groups]
    return centred


def slope_of(x: FloatArray, y: FloatArray) -> float:
    """Return the least-squares slope of centred values.

    Args:
        x: (n,) float64, centred values.
        y: (n,) float64, centred values to predict from `x`.

    Returns:
        The slope; 0 if x is constant.
    """
    spread = x @ x
    return float(x @ y / spread) if spread > 0 else 0.0
