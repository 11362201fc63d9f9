"""The margin gap, the paper's statistic, and the margin gap beyond what is expected for a clean input."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from mmguard.detection.margins import Readings
from mmguard.detection.statistics.evidence import Evidence
from mmguard.detection.statistics.least_squares import slope_of, within
from mmguard.types import FloatArray

POOLED_INPUTS = 5
"""Number of inputs of a class at which the class's own intercept and the mean over all inputs have the same weight."""


@dataclass(frozen=True)
class MarginGap:
    """The margin gap, the paper's statistic: how much margin the original network's decision loses through clipping.

    Attributes:
        evidence: the kind of evidence to which the statistic belongs.
        intercepts: (K,) intercepts of the expected gap, in logits, one for each decision of the original network; zero
            except in `ResidualMarginGap`.
        slope: slope of the expected gap as a function of the original network's margin, dimensionless; zero except in
            `ResidualMarginGap`.
    """

    evidence: ClassVar[Evidence] = "confidence"

    intercepts: tuple[float, ...]
    slope: float

    @classmethod
    def fit(cls, read: Readings) -> Self:
        """Return the statistic for K classes. The plain margin gap has no parameters to fit.

        Args:
            read: readings of clean inputs; only K is used.

        Returns:
            The statistic, with zero intercepts and slope.
        """
        return cls((0.0,) * read.original.shape[1], 0.0)

    def __call__(self, read: Readings) -> FloatArray:
        """Compute the statistic for each input.

        Args:
            read: readings of N inputs.

        Returns:
            (N,) float64 in logits; larger is more suspicious.
        """
        expected: FloatArray = self._intercepts[read.decisions] + self.slope * read.original_margins
        return read.margin_gaps - expected

    @cached_property
    def _intercepts(self) -> FloatArray:
        """The intercepts as an array, because converting a tuple takes longer than the arithmetic."""
        return np.asarray(self.intercepts)


@dataclass(frozen=True)
class ResidualMarginGap(MarginGap):
    """The margin gap minus the gap that is expected for clean inputs with the same decision and margin.

    Clipping reduces large margins more than small ones, and the margins of some classes more than those of others. For
    each decision, the expected gap is therefore a linear function of the original network's margin, with the same slope
    for all decisions.
    """

    @classmethod
    def fit(cls, read: Readings) -> Self:
        """Fit one line per decision by least squares.

        Intercepts of classes with few inputs are shrunk towards the overall mean.

        Args:
            read: readings of n clean inputs.

        Returns:
            The fitted statistic.
        """
        classes, decisions = read.original.shape[1], read.decisions
        margins, gaps = read.original_margins, read.margin_gaps
        slope = slope_of(within(margins, decisions, classes), within(gaps, decisions, classes))
        rest = gaps - slope * margins
        totals = np.bincount(decisions, rest, classes) + POOLED_INPUTS * rest.mean()
        intercepts = totals / (np.bincount(decisions, minlength=classes) + POOLED_INPUTS)
        return cls(tuple(intercepts.tolist()), slope)
