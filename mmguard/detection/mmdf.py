"""MMDF: is an input's passage through the clipped network unlike that of clean inputs (paper, section 3.1)?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy.special import log_ndtr

from mmguard.detection.null import GaussianNull, check_level, empirical_p_values, ranked_tail
from mmguard.detection.statistics import STATISTICS, Logits, MarginGap, Statistic
from mmguard.errors import InferenceError
from mmguard.types import BoolArray, FloatArray, IntArray

NullKind = Literal["gaussian", "empirical", "bounded"]


@dataclass(frozen=True)
class Criterion:
    """A statistic and its distribution over clean inputs."""

    statistic: Statistic
    null: GaussianNull

    @classmethod
    def fit(
        cls,
        name: str,
        original: Logits,
        clipped: Logits,
        power: float | None,
        parts: Sequence[IntArray] = (),
    ) -> tuple[Self, FloatArray]:
        """Fit a statistic, by its name, and its null to clean inputs (n, K).

        Where there are many classes, a statistic that was fitted on an input expects too well what becomes of it. So
        the null is of each part of the inputs by a statistic that was fitted on the others.

        Args:
            parts: rows of each part, all rows once; none for a null of the inputs that the statistic was fitted on.

        Returns:
            The criterion, and the inputs' own scores (n,), from which the null was fitted.

        Raises:
            CleanSetError: too few inputs, or all alike.
        """
        kind = STATISTICS[name]
        statistic = kind.fit(original, clipped)
        values = statistic(original, clipped)
        for part in parts:
            others = np.delete(np.arange(len(original)), part)
            values[part] = kind.fit(original[others], clipped[others])(original[part], clipped[part])
        criterion = cls(statistic, GaussianNull.fit(values, power))
        return criterion, criterion.null.standardise(values)

    def scores(self, original: Logits, clipped: Logits) -> FloatArray:
        """(N,) in standard deviations of the null above its mean, after its transform."""
        return self.null.standardise(self.statistic(original, clipped))


@dataclass(frozen=True)
class Verdicts:
    """What the test says of N inputs.

    Attributes:
        p_values: (N,) float64 in [0, 1]; small is suspicious.
        disagreement, confidence: (N,) bool, flagged for either reason.
        lost_confidence: (N,) bool, the original's decision lost more confidence than is expected of a clean input.
            Where it did not, and something else makes the input improbable, the decision itself is as good as before.
    """

    p_values: FloatArray
    disagreement: BoolArray
    confidence: BoolArray
    lost_confidence: BoolArray

    @property
    def flagged(self) -> BoolArray:
        """(N,) bool, for whatever reason."""
        return self.disagreement | self.confidence


@dataclass(frozen=True)
class MmdfTest:
    """Flag an input whose largest score is improbable for a clean one.

    The p-value is one of all m criteria: 1 - (1 - p)^m of their smallest p (Šidák 1967). At most a share `theta` of
    clean inputs has a p-value of at most `theta`, as far as the nulls hold, where criteria are independent or rise
    together. Of other kinds, the p-value also looks at the rank of the largest score among those of clean inputs, which
    assumes nothing about the nulls' shape:

    - `empirical`: it is `mmguard.detection.null.empirical_p_values`.
    - `bounded`: it is never below `mmguard.detection.null.ranked_tail`, whatever the fitted nulls say.

    A p-value of at most `theta` flags for confidence. Inputs that the two networks decide differently are flagged for
    disagreement if, besides, their p-value is at most `disagreement_theta`; 1 is the paper's rule, by which any
    disagreement flags.

    Attributes:
        criteria: at least one.
        clean_scores: (n,) ascending, largest scores of clean inputs; empty where the kind is `gaussian`.

    Raises:
        OptionError: the kind is `empirical`, and `theta` below the least p-value that so few clean scores can give.
    """

    criteria: tuple[Criterion, ...]
    theta: float
    disagreement_theta: float
    kind: NullKind = "gaussian"
    clean_scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "empirical":
            check_level(self.theta, len(self.clean_scores))

    def __call__(self, original: Logits, clipped: Logits) -> Verdicts:
        """Test a batch.

        Args:
            original, clipped: (N, K) logits of the two networks on the same inputs.

        Raises:
            InferenceError: some are NaN or infinite, and have no p-value.
        """
        if not (np.isfinite(original).all() and np.isfinite(clipped).all()):
            raise InferenceError("logits to be tested must be finite, got NaN or infinity")
        scores = [criterion.scores(original, clipped) for criterion in self.criteria]
        p_values = self.p_values(np.max(scores, axis=0))
        of_gaps = [
            own > 0 for own, each in zip(scores, self.criteria, strict=True) if isinstance(each.statistic, MarginGap)
        ]
        disagree = original.argmax(axis=1) != clipped.argmax(axis=1)
        return Verdicts(
            p_values,
            disagreement=disagree & (p_values <= self.disagreement_theta),
            confidence=p_values <= self.theta,
            lost_confidence=np.all(of_gaps, axis=0) if of_gaps else np.ones(len(p_values), np.bool_),
        )

    def p_values(self, scores: FloatArray) -> FloatArray:
        """(N,) of the largest score (N,) over the criteria."""
        if self.kind == "empirical":
            return empirical_p_values(scores, np.asarray(self.clean_scores))
        fitted: FloatArray = -np.expm1(len(self.criteria) * log_ndtr(scores))
        if self.kind == "bounded":
            return np.maximum(fitted, ranked_tail(scores, np.asarray(self.clean_scores)))
        return fitted
