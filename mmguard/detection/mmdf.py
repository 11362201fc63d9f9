"""The MMDF test: checks whether clipping changes an input's logits more than it changes the logits of clean inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy.special import log_ndtr

from mmguard.detection.margins import LogitPair, Logits
from mmguard.detection.null import GaussianNull, check_level, empirical_p_values, ranked_tail
from mmguard.detection.statistics import STATISTICS, MarginGap, Statistic
from mmguard.errors import InferenceError
from mmguard.types import BoolArray, FloatArray, IntArray

NullKind = Literal["gaussian", "empirical", "bounded"]


@dataclass(frozen=True)
class Criterion:
    """A statistic and its null distribution.

    Attributes:
        statistic: the statistic, computed from both networks' logits.
        null: distribution of the statistic over clean inputs.
    """

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
        """Fit a statistic and its null to clean inputs.

        With many classes, a statistic overfits the inputs to which it is fitted. The null can therefore be
        cross-fitted: each part of the inputs is scored by a statistic that was fitted to the other parts.

        Args:
            name: a key of `mmguard.detection.statistics.STATISTICS`.
            original: (n, K) finite logits of the original network.
            clipped: (n, K) finite logits of the clipped network on the same inputs.
            power: exponent of the null's power transform; None uses the maximum-likelihood exponent.
            parts: row numbers of each part; together, the parts contain every row once. If empty, the null is fitted to
                the same inputs as the statistic.

        Returns:
            The criterion, and the statistic's values (n,) to which the null was fitted, converted to scores by the
            null.

        Raises:
            CleanSetError: there are too few inputs, or the statistic has the same value for all of them.
        """
        kind, pair = STATISTICS[name], LogitPair(original, clipped)
        statistic = kind.fit(pair)
        values = statistic(pair)
        for part in parts:
            others = np.delete(np.arange(len(original)), part)
            fitted = kind.fit(LogitPair(original[others], clipped[others]))
            values[part] = fitted(LogitPair(original[part], clipped[part]))
        criterion = cls(statistic, GaussianNull.fit(values, power))
        return criterion, criterion.null.standardise(values)

    def scores(self, pair: LogitPair) -> FloatArray:
        """Return the statistic, standardised by its null distribution.

        Args:
            pair: both networks' logits (N, K).

        Returns:
            The scores (N,) float64; larger is more suspicious. A score is the transformed statistic, in standard
            deviations above the null's mean; the transform is the null's power transform.
        """
        return self.null.standardise(self.statistic(pair))


@dataclass(frozen=True)
class Verdicts:
    """Result of the test for N inputs.

    Attributes:
        p_values: (N,) float64 in [0, 1]; smaller is more suspicious.
        disagreement: (N,) bool, True for inputs that are flagged because the networks disagree.
        confidence: (N,) bool, True for inputs that are flagged because the p-value is at most the level.
        lost_confidence: (N,) bool, True if the original network's decision lost more margin than expected for a clean
            input. If False, the test found no reason to doubt the decision, even if the input is improbable for
            another reason.
    """

    p_values: FloatArray
    disagreement: BoolArray
    confidence: BoolArray
    lost_confidence: BoolArray

    @property
    def flagged(self) -> BoolArray:
        """(N,) bool, True for inputs that are flagged for either reason."""
        return self.disagreement | self.confidence


@dataclass(frozen=True)
class MmdfTest:
    """Flags an input whose largest score is improbable for a clean input (paper, section 3.1).

    With the kind `gaussian`, the p-value is 1 - (1 - p)^m, where p is the smallest p-value of the m criteria (Šidák
    1967). If the nulls fit the clean inputs and the criteria are independent or positively dependent, a clean input has
    a p-value of at most `theta` with a probability of at most `theta`. The other kinds rank the input's largest score
    among the largest scores of clean inputs. The rank requires no assumption about the shape of the nulls:

    - `empirical`: the p-value computed by `mmguard.detection.null.empirical_p_values`.
    - `bounded`: the larger of two p-values: the p-value of the kind `gaussian`, and the p-value computed by
      `mmguard.detection.null.ranked_tail`.

    An input is flagged for confidence if its p-value is at most `theta`. An input on which the networks disagree is
    flagged for disagreement if its p-value is at most `disagreement_theta`. If `disagreement_theta` is 1, every
    disagreement is flagged, as in the paper.

    Attributes:
        criteria: the criteria, at least one.
        theta: level of the test, in (0, 1].
        disagreement_theta: level at which disagreements are flagged, in [0, 1].
        kind: `gaussian`, `empirical` or `bounded`.
        clean_scores: (n,) largest score of each clean input, in ascending order; empty for the kind `gaussian`.

    Raises:
        OptionError: the kind is `empirical`, and `theta` is below the smallest p-value that n clean scores allow.
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
        """Test a batch, after checking that its logits are finite.

        Args:
            original: (N, K) logits of the original network.
            clipped: (N, K) logits of the clipped network on the same inputs.

        Returns:
            The result for each input.

        Raises:
            InferenceError: a logit is NaN or infinite, so its input has no p-value.
        """
        if not (np.isfinite(original).all() and np.isfinite(clipped).all()):
            raise InferenceError("the test needs finite logits, got NaN or infinity; leave out the affected inputs")
        return self.verdicts(LogitPair(original, clipped))

    def verdicts(self, pair: LogitPair) -> Verdicts:
        """Test a batch whose logits are known to be finite. Inputs with NaN or infinite logits would not be flagged.

        Args:
            pair: both networks' logits (N, K). The caller must check that all of them are finite.

        Returns:
            The result for each input.
        """
        scores = [criterion.scores(pair) for criterion in self.criteria]
        p_values = self.p_values(np.max(scores, axis=0))
        gap_lost = [
            own > 0 for own, each in zip(scores, self.criteria, strict=True) if isinstance(each.statistic, MarginGap)
        ]
        return Verdicts(
            p_values,
            disagreement=(pair.decisions != pair.clipped_decisions) & (p_values <= self.disagreement_theta),
            confidence=p_values <= self.theta,
            lost_confidence=np.all(gap_lost, axis=0) if gap_lost else np.ones(len(p_values), np.bool_),
        )

    def p_values(self, scores: FloatArray) -> FloatArray:
        """Return the p-value of each input's largest score.

        Args:
            scores: (N,) float64, the largest score of each input over all criteria.

        Returns:
            (N,) float64 in [0, 1]; smaller is more suspicious.
        """
        if self.kind == "empirical":
            return empirical_p_values(scores, np.asarray(self.clean_scores))
        fitted: FloatArray = -np.expm1(len(self.criteria) * log_ndtr(scores))
        if self.kind == "bounded":
            return np.maximum(fitted, ranked_tail(scores, np.asarray(self.clean_scores)))
        return fitted
