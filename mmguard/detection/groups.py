"""Which clean inputs an input is compared with: those of its class, or all of them if the class has too few."""

import numpy as np

from mmguard.types import IntArray

MIN_OF_CLASS = 10
"""Minimum number of clean inputs from which a class is a group of its own. All other classes share the group of all
clean inputs."""


def group_classes(decisions: IntArray, classes: int) -> tuple[IntArray, list[IntArray]]:
    """Group clean inputs by the network's decisions.

    Args:
        decisions: (n,) int64, the network's decisions on clean inputs.
        classes: number of classes K.

    Returns:
        The group of each class, (K,) int64, and the rows of each group's clean inputs. Group 0 has all rows.

    Example:
        >>> groups, rows = group_classes(np.repeat([2, 0], [10, 3]), 3)
        >>> groups.tolist(), [len(each) for each in rows]
        ([0, 0, 1], [13, 10])
    """
    own = np.flatnonzero(np.bincount(decisions, minlength=classes) >= MIN_OF_CLASS)
    groups = np.zeros(classes, np.int64)
    groups[own] = np.arange(1, len(own) + 1)
    return groups, [np.arange(len(decisions)), *(np.flatnonzero(decisions == label) for label in own)]
