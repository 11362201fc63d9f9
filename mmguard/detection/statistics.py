"""The statistics of the MMDF test, computed from both networks' logits."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from mmguard.detection.margins import LogitPair, Logits
from mmguard.types import FloatArray, IntArray

POOLED_INPUTS = 5
"""Number of inputs of a class at which the class's own intercept and the mean over all inputs have the same weight."""


@dataclass(frozen=True)
class MarginGap:
    """The margin gap, the paper's statistic: how much margin the original network's decision loses through clipping.

    Attributes:
        intercepts: (K,) intercepts of the expected gap, in logits, one for each decision of the original network; zero
            except in `ResidualMarginGap`.
        slope: slope of the expected gap as a function of the original network's margin, dimensionless; zero except in
            `ResidualMarginGap`.
    """

    intercepts: tuple[float, ...]
    slope: float

    @classmethod
    def fit(cls, pair: LogitPair) -> Self:
        """Return the statistic for K classes. The plain margin gap has no parameters to fit.

        Args:
            pair: logits (n, K) of clean inputs; only K is used.

        Returns:
            The statistic, with zero intercepts and slope.
        """
        return cls((0.0,) * pair.original.shape[1], 0.0)

    def __call__(self, pair: LogitPair) -> FloatArray:
        """Compute the statistic for each input.

        Args:
            pair: both networks' logits (N, K).

        Returns:
            (N,) float64 in logits; larger is more suspicious.
        """
        expected: FloatArray = np.asarray(self.intercepts)[pair.decisions] + self.slope * pair.original_margins
        return pair.margin_gaps - expected


@dataclass(frozen=True)
class ResidualMarginGap(MarginGap):
    """The margin gap minus the gap that is expected for clean inputs with the same decision and margin.

    Clipping reduces large margins more than small ones, and the margins of some classes more than those of others. For
    each decision, the expected gap is therefore a linear function of the original network's margin, with the same slope
    for all decisions.
    """

    @classmethod
    def fit(cls, pair: LogitPair) -> Self:
        """Fit one line per decision by least squares.

        Intercepts of classes with few inputs are shrunk towards the overall mean.

        Args:
            pair: logits (n, K) of clean inputs.

        Returns:
            The fitted statistic.
        """
        classes, decisions = pair.original.shape[1], pair.decisions
        margins, gaps = pair.original_margins, pair.margin_gaps
        slope = _slope(_within(margins, decisions, classes), _within(gaps, decisions, classes))
        rest = gaps - slope * margins
        totals = np.bincount(decisions, rest, classes) + POOLED_INPUTS * rest.mean()
        intercepts = totals / (np.bincount(decisions, minlength=classes) + POOLED_INPUTS)
        return cls(tuple(intercepts.tolist()), slope)


@dataclass(frozen=True)
class ResidualNorm:
    """The norm of the difference between an input's clipped logits and the logits expected for a clean input.

    This statistic detects what the margin gap misses: a trigger that raises many logits, or an input for which the
    clipped network decides on neither of the original network's two best classes. Each expected clipped logit is a
    linear function of the original logit, with the same slope for all classes.

    Attributes:
        intercepts: (K,) intercepts of the expected clipped logits, in logits, one for each class.
        slope: slope of the expected clipped logits, dimensionless.
    """

    intercepts: tuple[float, ...]
    slope: float

    @classmethod
    def fit(cls, pair: LogitPair) -> Self:
        """Fit one line per class by least squares.

        Args:
            pair: logits (n, K) of clean inputs.

        Returns:
            The fitted statistic.
        """
        before, after = cls._prepare(pair.original), cls._prepare(pair.clipped)
        slope = _slope((before - before.mean(axis=0)).ravel(), (after - after.mean(axis=0)).ravel())
        return cls(tuple((after.mean(axis=0) - slope * before.mean(axis=0)).tolist()), slope)

    def __call__(self, pair: LogitPair) -> FloatArray:
        """Compute the statistic for each input.

        Args:
            pair: both networks' logits (N, K).

        Returns:
            (N,) float64 in logits; larger is more suspicious.
        """
        rest = self._prepare(pair.clipped) - np.asarray(self.intercepts) - self.slope * self._prepare(pair.original)
        lengths: FloatArray = np.sqrt(np.einsum("nk,nk->n", rest, rest))
        return lengths

    @staticmethod
    def _prepare(logits: Logits) -> FloatArray:
        """Convert logits (N, K) to the values to which the lines are fitted."""
        return logits.astype(np.float64)


@dataclass(frozen=True)
class CentredResidualNorm(ResidualNorm):
    """The residual norm, computed from logits minus their mean over the classes.

    Probabilities determine the logits only up to a constant for each input. For a model that returns only
    probabilities, the test must not depend on that constant.
    """

    @staticmethod
    def _prepare(logits: Logits) -> FloatArray:
        """Subtract the mean over the classes from logits (N, K)."""
        exact = logits.astype(np.float64)
        centred: FloatArray = exact - exact.mean(axis=1, keepdims=True)
        return centred


def _within(values: FloatArray, groups: IntArray, count: int) -> FloatArray:
    """Subtract from each value (n,) the mean of the value's group."""
    means = np.bincount(groups, values, count) / np.maximum(np.bincount(groups, minlength=count), 1)
    centred: FloatArray = values - means[groups]
    return centred


def _slope(x: FloatArray, y: FloatArray) -> float:
    """Return the least-squares slope of centred values; 0 if x is constant."""
    spread = x @ x
    return float(x @ y / spread) if spread > 0 else 0.0


Statistic = MarginGap | ResidualNorm
STATISTICS: dict[str, type[Statistic]] = {
    "margin_gap": MarginGap,
    "residual_margin_gap": ResidualMarginGap,
    "residual_norm": ResidualNorm,
    "centred_residual_norm": CentredResidualNorm,
}
"""The statistics, by the names used in settings and manifests."""
