"""The size of the unexpected change of an input's logits."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from mmguard.detection.margins import Logits, Readings
from mmguard.detection.statistics.evidence import Evidence
from mmguard.detection.statistics.least_squares import slope_of
from mmguard.types import FloatArray


@dataclass(frozen=True)
class ResidualNorm:
    """The norm of the difference between an input's clipped logits and the logits expected for a clean input.

    This statistic detects what the margin gap misses: a trigger that raises many logits, or an input for which the
    clipped network decides on neither of the original network's two best classes. Each expected clipped logit is a
    linear function of the original logit, with the same slope for all classes.

    Attributes:
        evidence: the kind of evidence to which the statistic belongs.
        intercepts: (K,) intercepts of the expected clipped logits, in logits, one for each class.
        slope: slope of the expected clipped logits, dimensionless.
    """

    evidence: ClassVar[Evidence] = "confidence"

    intercepts: tuple[float, ...]
    slope: float

    @classmethod
    def fit(cls, read: Readings) -> Self:
        """Fit one line per class by least squares.

        Args:
            read: readings of n clean inputs.

        Returns:
            The fitted statistic.
        """
        before, after = cls._prepare(read.original), cls._prepare(read.clipped)
        slope = slope_of((before - before.mean(axis=0)).ravel(), (after - after.mean(axis=0)).ravel())
        return cls(tuple((after.mean(axis=0) - slope * before.mean(axis=0)).tolist()), slope)

    def __call__(self, read: Readings) -> FloatArray:
        """Compute the statistic for each input.

        Args:
            read: readings of N inputs.

        Returns:
            (N,) float64 in logits; larger is more suspicious.
        """
        rest = self._prepare(read.clipped) - self._intercepts - self.slope * self._prepare(read.original)
        lengths: FloatArray = np.sqrt(np.einsum("nk,nk->n", rest, rest))
        return lengths

    @cached_property
    def _intercepts(self) -> FloatArray:
        """The intercepts as an array, because converting a tuple takes longer than the arithmetic."""
        return np.asarray(self.intercepts)

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
