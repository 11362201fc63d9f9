"""The excess of the original network's activations beyond the ranges of clean inputs with the same decision.

A trigger often activates channels that are silent for every clean input of the class that it leads to. A distance with
one covariance for all classes hardly sees that, because other classes use these channels. The ranges are therefore
those of each class, and robust, because the clean inputs that the network decides on wrongly are not like their class
(compare the ranges of Gram matrices in Sastry and Oore 2020, "Detecting out-of-distribution examples with Gram
matrices").
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from mmguard.detection.groups import group_classes
from mmguard.types import Features, FloatArray, IntArray

WIDTH = 3.0
"""Half the width of a range, in median absolute deviations from the median. For a Gaussian, these are two standard
deviations."""
LEAST_SIZE = 0.01
"""Minimum size of a range, as a share of the mean absolute value of all channels of the site. The range of a silent
channel would otherwise have the size 0."""
SILENT = 1e-20
"""Mean absolute value up to which a whole site counts as silent, so that 1 takes the place of its mean. Ratios to
smaller numbers could overflow float32."""


@dataclass(frozen=True)
class ClassRanges:
    """The range of each channel over the clean inputs of each class: the median, and half the width around it.

    Attributes:
        groups: (K,) int64, the row of each class in the other arrays; row 0 is of all clean inputs.
        medians: (G, C) float64, medians of the features.
        widths: (G, C) float64, half the width of each range, at least 0.
        sizes: (G, C) float64, the size of each range: the larger absolute value of its ends, but at least a share of
            the site's mean; positive.
    """

    groups: IntArray
    medians: FloatArray
    widths: FloatArray
    sizes: FloatArray

    @classmethod
    def fit(cls, features: Features, decisions: IntArray, classes: int) -> Self:
        """Find the ranges of one site's channels.

        Args:
            features: (n, C) features of clean inputs, all finite.
            decisions: (n,) int64, the network's decisions.
            classes: number of classes K.

        Returns:
            The ranges.
        """
        exact = features.astype(np.float64)
        groups, members = group_classes(decisions, classes)
        medians = np.stack([np.median(exact[rows], axis=0) for rows in members])
        widths = WIDTH * np.stack(
            [np.median(np.abs(exact[rows] - own), axis=0) for rows, own in zip(members, medians, strict=True)]
        )
        usual = np.abs(exact).mean()
        least = LEAST_SIZE * (usual if usual > SILENT else 1)
        return cls(groups, medians, widths, np.maximum(np.abs(medians) + widths, least))

    def __call__(self, features: Features, decisions: IntArray) -> FloatArray:
        """Add up the relative excesses of all channels beyond their ranges.

        Args:
            features: (N, C) features of any inputs.
            decisions: (N,) int64, the network's decisions.

        Returns:
            (N,) float64, dimensionless, at least 0; larger is more suspicious.
        """
        group = self.groups[decisions]
        beyond = np.maximum(np.abs(features - self.medians[group]) - self.widths[group], 0)
        total: FloatArray = (beyond / self.sizes[group]).sum(axis=1)
        return total
