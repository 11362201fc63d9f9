"""The MMDF test: checks whether anything that both networks show of an input is improbable for a clean input."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
from scipy.special import log_ndtr

from mmguard.detection.margins import Logits, Readings
from mmguard.detection.null import GaussianNull, GaussianNulls, check_level, empirical_p_values, ranked_tail
from mmguard.detection.statistics import STATISTICS, MarginGap, Statistic, SupportedMarginGap
from mmguard.errors import InferenceError
from mmguard.types import BoolArray, FloatArray, IntArray

NullKind = Literal["gaussian", "empirical", "bounded"]


@dataclass(frozen=True)
class Criterion:
    """A statistic and its null distribution.

    Attributes:
        statistic: the statistic.
        null: distribution of the statistic over clean inputs.
    """

    statistic: Statistic
    null: GaussianNull

    @classmethod
    def fit(
        cls,
        name: str,
        read: Readings,
        power: float | None,
        parts: Sequence[IntArray] = (),
    ) -> tuple[Self, FloatArray]:
        """Fit a statistic and its null to clean inputs.

        With many classes, a statistic overfits the inputs to which it is fitted. The null can therefore be
        cross-fitted: each part of the inputs is scored by a statistic that was fitted to the other parts.

        Args:
            name: a key of `mmguard.detection.statistics.STATISTICS`.
            read: readings of n clean inputs.
            power: exponent of the null's power transform; None uses the maximum-likelihood exponent.
            parts: row numbers of each part; together, the parts contain every row once. If empty, the null is fitted to
                the same inputs as the statistic.

        Returns:
            The criterion, and the statistic's values (n,) to which the null was fitted, converted to scores by the
            null.

        Raises:
            CleanSetError: there are too few inputs, or the statistic has the same value for all of them.
        """
        kind, rows = STATISTICS[name], np.arange(len(read.decisions))
        statistic = kind.fit(read)
        values = statistic(read).copy()
        for part in parts:
            values[part] = kind.fit(read.rows(np.delete(rows, part)))(read.rows(part))
        criterion = cls(statistic, GaussianNull.fit(values, power))
        return criterion, criterion.null.standardise(values)

    def scores(self, read: Readings) -> FloatArray:
        """Return the statistic, standardised by its null distribution.

        Args:
            read: readings of N inputs.

        Returns:
            The scores (N,) float64; larger is more suspicious. A score is the transformed statistic, in standard
            deviations above the null's mean; the transform is the null's power transform.
        """
        return self.null.standardise(self.statistic(read))


@dataclass(frozen=True)
class Verdicts:
    """Result of the test for N inputs.

    Attributes:
        p_values: (N,) float64 in [0, 1]; smaller is more suspicious.
        disagreement: (N,) bool, True for inputs that are flagged because the networks disagree.
        improbable: (N,) bool, True for inputs that are flagged because the p-value is at most the level.
        evidence: (N,) index of the criterion with the largest score.
        lost_confidence: (N,) bool, True if the original network's decision lost more margin than expected for a clean
            input. If False, the logits give no reason to doubt the decision, even if the input is improbable for
            another reason.
    """

    p_values: FloatArray
    disagreement: BoolArray
    improbable: BoolArray
    evidence: IntArray
    lost_confidence: BoolArray

    @property
    def flagged(self) -> BoolArray:
        """(N,) bool, True for inputs that are flagged for either reason."""
        return self.disagreement | self.improbable


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

    An input is flagged if its p-value is at most `theta`; the criterion with the largest score explains why. An input
    on which the networks disagree is flagged for disagreement if its p-value is at most `disagreement_theta`. If
    `disagreement_theta` is 1, every disagreement is flagged, as in the paper.

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

    def __call__(self, original: Logits, clipped: Logits, activations: Logits | None = None) -> Verdicts:
        """Test a batch, after checking that its readings are finite.

        Args:
            original: (N, K) logits of the original network.
            clipped: (N, K) logits of the clipped network on the same inputs.
            activations: (N, S + 1) what the test reads of the original network's activations; None if no criterion
                reads them.

        Returns:
            The result for each input.

        Raises:
            InferenceError: a logit is NaN or infinite, so its input has no p-value.
        """
        read = Readings(original, clipped, activations)
        if not all(np.isfinite(values).all() for values in (original, clipped, read.activations)):
            raise InferenceError("the test needs finite logits, got NaN or infinity; leave out the affected inputs")
        return self.verdicts(read)

    def verdicts(self, read: Readings) -> Verdicts:
        """Test a batch whose readings are known to be finite. Inputs with NaN or infinity would not be flagged.

        Args:
            read: readings of N inputs. The caller must check that all of them are finite.

        Returns:
            The result for each input.
        """
        scores = self._nulls.standardise(np.array([each.statistic(read) for each in self.criteria]))
        p_values = self.p_values(scores.max(axis=0))
        return Verdicts(
            p_values,
            disagreement=(read.decisions != read.clipped_decisions) & (p_values <= self.disagreement_theta),
            improbable=p_values <= self.theta,
            evidence=scores.argmax(axis=0),
            lost_confidence=self._lost_confidence(read, scores),
        )

    @cached_property
    def _nulls(self) -> GaussianNulls:
        return GaussianNulls.of([each.null for each in self.criteria])

    def _lost_confidence(self, read: Readings, scores: FloatArray) -> BoolArray:
        """Return whether each margin gap is larger than expected; True if no criterion measures a margin gap."""
        lost = np.ones(len(read.decisions), np.bool_)
        for own, criterion in zip(scores, self.criteria, strict=True):
            if isinstance(criterion.statistic, MarginGap):
                lost &= own > 0
            elif isinstance(criterion.statistic, SupportedMarginGap):
                lost &= criterion.statistic.gap(read) > 0
        return lost

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
