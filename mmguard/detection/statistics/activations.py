"""Statistics that read how far the original network's activations are from those of clean inputs."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from mmguard.detection.margins import OriginalReadings, Readings
from mmguard.detection.statistics.evidence import Evidence
from mmguard.detection.statistics.margin_gaps import ResidualMarginGap
from mmguard.types import FloatArray

LEAST_DISTANCE = 1e-12
"""Smallest squared distance whose logarithm is taken; it is far below those of any real input."""


@dataclass(frozen=True)
class ActivationDistance:
    """The distance of the original network's activations from those of clean inputs with the same decision.

    At each site, the logarithm of the squared distance is standardised. The statistic is the log-sum-exp of these
    scores, which lies between their maximum and their sum: a trigger may show at one site or faintly at many.

    Attributes:
        evidence: the kind of evidence to which the statistic belongs.
        means: (S,) means of the log distances of clean inputs.
        stds: (S,) standard deviations of the log distances of clean inputs.
    """

    evidence: ClassVar[Evidence] = "activations"

    means: tuple[float, ...]
    stds: tuple[float, ...]

    @classmethod
    def fit(cls, read: Readings) -> Self:
        """Fit the mean and standard deviation at each site.

        Args:
            read: readings of n clean inputs. Each input's distances must be computed with Gaussians that were fitted
                without this input (`mmguard.detection.evidence.held_out_evidence`).

        Returns:
            The fitted statistic.
        """
        logs = log_distances(read)
        return cls(tuple(logs.mean(axis=0).tolist()), tuple(_stds(logs).tolist()))

    def __call__(self, read: OriginalReadings) -> FloatArray:
        """Compute the statistic for each input.

        Args:
            read: readings of N inputs.

        Returns:
            (N,) float64; larger is more suspicious.
        """
        means, stds = self._moments
        total: FloatArray = np.logaddexp.reduce((log_distances(read) - means) / stds, axis=1)
        return total

    @cached_property
    def _moments(self) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations as arrays, because converting a tuple takes longer than the arithmetic."""
        return np.asarray(self.means), np.asarray(self.stds)


@dataclass(frozen=True)
class ActivationExcess:
    """The excess of the original network's activations beyond the ranges of clean inputs with the same decision.

    The statistic is log(1 + excess), because the excess of some clean inputs is many times that of most.

    Attributes:
        evidence: the kind of evidence to which the statistic belongs.
    """

    evidence: ClassVar[Evidence] = "activations"

    @classmethod
    def fit(cls, read: Readings) -> Self:
        """Return the statistic, which has no parameters to fit.

        Args:
            read: readings of clean inputs; not used.

        Returns:
            The statistic.
        """
        return cls()

    def __call__(self, read: OriginalReadings) -> FloatArray:
        """Compute the statistic for each input.

        Args:
            read: readings of N inputs.

        Returns:
            (N,) float64, at least 0; larger is more suspicious.
        """
        excess: FloatArray = read.activations[:, -1].astype(np.float64)
        return np.log1p(excess)


@dataclass(frozen=True)
class SupportedMarginGap:
    """The residual margin gap, plus the activations' distance at the last site if that is larger than usual.

    Both are measured in standard deviations over clean inputs. Where a trigger leaves only a faint trace in each of
    them, their sum shows it. A distance that is smaller than usual is counted as usual, so that it does not conceal a
    gap.

    Attributes:
        evidence: the kind of evidence to which the statistic belongs.
        intercepts: (K,) as in `ResidualMarginGap`, in logits.
        slope: as in `ResidualMarginGap`.
        gap_std: standard deviation of the residual margin gap of clean inputs, in logits.
        mean: mean of the log distance of clean inputs at the last site.
        std: standard deviation of the log distance of clean inputs at the last site.
    """

    evidence: ClassVar[Evidence] = "confidence"

    intercepts: tuple[float, ...]
    slope: float
    gap_std: float
    mean: float
    std: float

    @classmethod
    def fit(cls, read: Readings) -> Self:
        """Fit the residual margin gap, and the means and standard deviations.

        Args:
            read: readings of n clean inputs, as in `ActivationDistance.fit`.

        Returns:
            The fitted statistic.
        """
        gap = ResidualMarginGap.fit(read)
        (gap_std,) = _stds(gap(read)[:, None])
        last = log_distances(read)[:, -1:]
        return cls(gap.intercepts, gap.slope, float(gap_std), float(last.mean()), float(_stds(last)[0]))

    def gap(self, read: Readings) -> FloatArray:
        """Compute the residual margin gap.

        Args:
            read: readings of N inputs.

        Returns:
            (N,) float64, in standard deviations over clean inputs; larger is more suspicious.
        """
        return self._residual_gap(read) / self.gap_std

    @cached_property
    def _residual_gap(self) -> ResidualMarginGap:
        return ResidualMarginGap(self.intercepts, self.slope)

    def __call__(self, read: Readings) -> FloatArray:
        """Compute the statistic for each input.

        Args:
            read: readings of N inputs.

        Returns:
            (N,) float64; larger is more suspicious.
        """
        last = (log_distances(read)[:, -1] - self.mean) / self.std
        total: FloatArray = self.gap(read) + np.maximum(last, 0)
        return total


def log_distances(read: OriginalReadings) -> FloatArray:
    """Return the logarithms of the squared distances; a distance of 0 counts as `LEAST_DISTANCE`.

    Args:
        read: readings of N inputs.

    Returns:
        (N, S) float64; larger is more suspicious.
    """
    return np.log(np.maximum(read.activations[:, :-1].astype(np.float64), LEAST_DISTANCE))


def _stds(values: FloatArray) -> FloatArray:
    """Return the standard deviation of each column (n, S); 1 for a column that is constant."""
    stds: FloatArray = values.std(axis=0, ddof=1)
    stds[np.ptp(values, axis=0) == 0] = 1  # the computed deviation of equal numbers is not exactly 0
    return stds
