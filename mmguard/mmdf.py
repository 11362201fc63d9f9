"""MMDF: is an input's passage through the clipped network unlike that of clean inputs (paper, section 3.1)?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from mmguard.errors import InferenceError
from mmguard.stats import GaussianNull, check_level, empirical_p_values, margin, ranked_tail
from mmguard.types import BoolArray, FloatArray, IntArray

Logits = npt.NDArray[np.floating]
NullKind = Literal["gaussian", "empirical", "bounded"]

POOLED_INPUTS = 5
"""A class's own intercept counts as much as that of all classes where the class has so many inputs."""


@dataclass(frozen=True)
class Gap:
    """The margin gap: confidence in the original's decision that clipping takes away. The paper's statistic.

    Attributes:
        intercepts: (K,) in logits, by the original's decision. slope: without unit. Zeros: see `ExcessGap`.
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
class ExcessGap(Gap):
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
class Shift:
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
class CentredShift(Shift):
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


Statistic = Gap | Shift
STATISTICS: dict[str, type[Statistic]] = {
    "gap": Gap,
    "excess_gap": ExcessGap,
    "shift": Shift,
    "centred_shift": CentredShift,
}
"""By the names that settings and manifests use."""


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
        distrusted: (N,) bool, the original's decision lost more confidence than is expected of a clean input. Where it
            did not, and something else makes the input improbable, the decision itself is no worse than before.
    """

    p_values: FloatArray
    disagreement: BoolArray
    confidence: BoolArray
    distrusted: BoolArray

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

    - `empirical`: it is `mmguard.stats.empirical_p_values`.
    - `bounded`: it is never below `mmguard.stats.ranked_tail`, whatever the fitted nulls say.

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
        of_gaps = [own > 0 for own, each in zip(scores, self.criteria, strict=True) if isinstance(each.statistic, Gap)]
        disagree = original.argmax(axis=1) != clipped.argmax(axis=1)
        return Verdicts(
            p_values,
            disagreement=disagree & (p_values <= self.disagreement_theta),
            confidence=p_values <= self.theta,
            distrusted=np.all(of_gaps, axis=0) if of_gaps else np.ones(len(p_values), np.bool_),
        )

    def p_values(self, scores: FloatArray) -> FloatArray:
        """(N,) of the largest score (N,) over the criteria."""
        if self.kind == "empirical":
            return empirical_p_values(scores, np.asarray(self.clean_scores))
        fitted: FloatArray = -np.expm1(len(self.criteria) * log_ndtr(scores))
        if self.kind == "bounded":
            return np.maximum(fitted, ranked_tail(scores, np.asarray(self.clean_scores)))
        return fitted
