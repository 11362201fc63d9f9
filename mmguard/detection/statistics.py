"""What the MMDF test looks at: statistics of both networks' logits."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from mmguard.detection.margins import margin
from mmguard.types import FloatArray, IntArray

Logits = npt.NDArray[np.floating]


POOLED_INPUTS = 5
"""A class's own intercept counts as much as that of all classes where the class has so many inputs."""


@dataclass(frozen=True)
class MarginGap:
    """The margin gap: confidence in the original's decision that clipping takes away. The paper's statistic.

    Attributes:
        intercepts: (K,) in logits, by the original's decision. slope: without unit. Zeros: see `ResidualMarginGap`.
    """

    intercepts: tuple[float, ...]
    slope: float

    @classmethod
    def fit(cls, original: Logits, clipped: Logits) -> Self:
        """There is nothing to fit: of clean inputs (n, K) it takes K alone."""
        return cls((0.0,) * original.shape[1], 0.0)

    def __call__(self, original: Logits, clipped: Logits) -> FloatArray:
        """Statistic (N,) in logits, of both networks' logits (N, K); large is suspicious."""
        decisions = original.argmax(axis=1)
        margins = margin(original, decisions)
        gaps = margins - margin(clipped, decisions)
        expected: FloatArray = np.asarray(self.intercepts)[decisions] + self.slope * margins
        return gaps - expected


@dataclass(frozen=True)
class ResidualMarginGap(MarginGap):
    """The margin gap beyond the one that clean inputs of the same decision and margin have.

    Clipping takes more from confident inputs than from doubtful ones, and more from some classes than from others:
    a line in the original's margin for each decision, all of one slope.
    """

    @classmethod
    def fit(cls, original: Logits, clipped: Logits) -> Self:
        """Least squares on clean inputs (n, K). Intercepts of classes with few inputs are drawn to the mean of all."""
        classes, decisions = original.shape[1], original.argmax(axis=1)
        margins = margin(original, decisions)
        gaps = margins - margin(clipped, decisions)
        slope = _slope(_within(margins, decisions, classes), _within(gaps, decisions, classes))
        rest = gaps - slope * margins
        totals = np.bincount(decisions, rest, classes) + POOLED_INPUTS * rest.mean()
        intercepts = totals / (np.bincount(decisions, minlength=classes) + POOLED_INPUTS)
        return cls(tuple(intercepts.tolist()), slope)


@dataclass(frozen=True)
class ResidualNorm:
    """Length of what clipping does to the logits beyond what it does to those of clean inputs.

    It sees what the margin does not: a trigger that raises many logits, or a clipped network that falls back on another
    class than the second best. Each clipped logit is expected on a line in the original's, all of one slope.

    Attributes:
        intercepts: (K,) in logits, by class. slope: without unit.
    """

    intercepts: tuple[float, ...]
    slope: float

    @classmethod
    def fit(cls, original: Logits, clipped: Logits) -> Self:
        """Least squares on clean inputs (n, K)."""
        before, after = original.astype(np.float64), clipped.astype(np.float64)
        slope = _slope((before - before.mean(axis=0)).ravel(), (after - after.mean(axis=0)).ravel())
        return cls(tuple((after.mean(axis=0) - slope * before.mean(axis=0)).tolist()), slope)

    def __call__(self, original: Logits, clipped: Logits) -> FloatArray:
        """Statistic (N,) in logits, of both networks' logits (N, K); large is suspicious."""
        rest = clipped - np.asarray(self.intercepts) - self.slope * original.astype(np.float64)
        lengths: FloatArray = np.sqrt(np.einsum("nk,nk->n", rest, rest))
        return lengths


@dataclass(frozen=True)
class CentredResidualNorm(ResidualNorm):
    """The shift of logits less their mean over the classes.

    Probabilities say the logits but for a constant of each input. Where a model answers with probabilities alone, a
    test must not depend on it.
    """

    @classmethod
    def fit(cls, original: Logits, clipped: Logits) -> Self:
        """Least squares on clean inputs (n, K)."""
        return super().fit(_centred(original), _centred(clipped))

    def __call__(self, original: Logits, clipped: Logits) -> FloatArray:
        """Statistic (N,) in logits, of both networks' logits (N, K); large is suspicious."""
        return super().__call__(_centred(original), _centred(clipped))


def _centred(logits: Logits) -> FloatArray:
    """Logits (N, K) less their mean over the classes."""
    exact = logits.astype(np.float64)
    centred: FloatArray = exact - exact.mean(axis=1, keepdims=True)
    return centred


def _within(values: FloatArray, groups: IntArray, count: int) -> FloatArray:
    """Values (n,) less the mean of their group."""
    means = np.bincount(groups, values, count) / np.maximum(np.bincount(groups, minlength=count), 1)
    centred: FloatArray = values - means[groups]
    return centred


def _slope(x: FloatArray, y: FloatArray) -> float:
    """Least squares, of what is centred already; 0 where x is constant."""
    spread = x @ x
    return float(x @ y / spread) if spread > 0 else 0.0


Statistic = MarginGap | ResidualNorm
STATISTICS: dict[str, type[Statistic]] = {
    "margin_gap": MarginGap,
    "residual_margin_gap": ResidualMarginGap,
    "residual_norm": ResidualNorm,
    "centred_residual_norm": CentredResidualNorm,
}
"""By the names that settings and manifests use."""
