"""The screen: decides from the original network alone on which inputs the clipped network must run.

Most statistics of the test read the original network only, which runs anyway. If none of them is unusual, the input is
taken for clean, and the second network need not run. Only inputs that the screen holds back can be flagged, so the
screen can only lower the share of clean inputs that are flagged.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import log_ndtr

from mmguard.detection.margins import OriginalReadings
from mmguard.detection.mmdf import MmdfTest
from mmguard.detection.null import GaussianNulls
from mmguard.detection.statistics import OriginalStatistic
from mmguard.types import BoolArray, FloatArray

DEFAULT_SHARE = 0.1
"""Share of clean inputs that the screen may hold back by default."""


@dataclass(frozen=True)
class Screen:
    """Holds back the inputs for which the original network alone shows something unusual.

    The p-value of an input is 1 - (1 - p)^m, where p is the smallest p-value of the m statistics that read the original
    network only, each from its Gaussian null. An input is held back if its p-value is at most `level`.

    Attributes:
        statistics: the statistics of the test that read the original network only, at least one.
        nulls: their nulls.
        level: largest p-value with which an input is held back, in (0, 1).
    """

    statistics: tuple[OriginalStatistic, ...]
    nulls: GaussianNulls
    level: float

    @classmethod
    def of(cls, test: MmdfTest, share: float) -> Self | None:
        """Return the screen of a test.

        Args:
            test: the test.
            share: share of clean inputs that the screen may hold back, in [0, 1]. If a level of the test is larger, it
                takes the place of this share; otherwise, the screen would pass inputs that the test would flag by the
                same statistics.

        Returns:
            The screen; None if every input must be held back, because the share is 0, the level is 1, or the test does
            not read activations. The original network's own margin alone is not enough to go by.
        """
        own = [(each.statistic, each.null) for each in test.criteria if isinstance(each.statistic, OriginalStatistic)]
        level = max(share, test.theta, test.disagreement_theta)
        if share == 0 or level >= 1 or not any(statistic.evidence == "activations" for statistic, _ in own):
            return None
        return cls(tuple(statistic for statistic, _ in own), GaussianNulls.of([null for _, null in own]), level)

    def p_values(self, read: OriginalReadings) -> FloatArray:
        """Compute the p-value of each input.

        Args:
            read: readings of N inputs.

        Returns:
            (N,) float64 in [0, 1], smaller is more suspicious; NaN for an input whose readings are not finite.
        """
        scores = self.nulls.standardise(np.array([statistic(read) for statistic in self.statistics]))
        p_values: FloatArray = -np.expm1(len(self.statistics) * log_ndtr(scores.max(axis=0)))
        return p_values

    def held_back(self, p_values: FloatArray) -> BoolArray:
        """Return which inputs are held back: also those whose p-value is NaN.

        Args:
            p_values: (N,) float64, as returned by `p_values`.

        Returns:
            (N,) bool.
        """
        return ~(p_values > self.level)
