"""Margins, the null distribution and the MMDF test (paper, section 3.1). NumPy and SciPy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import boxcox1p, ndtr

from mmguard.errors import CleanSetError
from mmguard.types import BoolArray, FloatArray, IntArray

POOLED_INPUTS = 5
"""A class's own expected gap counts as much as that of all classes where the class has so many inputs."""
MIN_NULL_SAMPLES = 20
"""Below this, the standard deviation of the null is too uncertain for any tail to be read off it."""


def margin(logits: npt.NDArray[np.floating], labels: IntArray) -> FloatArray:
    """The logit of a class minus the best other logit.

    Args:
        logits: (N, K), K >= 2.
        labels: (N,) int64, the class of each row.

    Returns:
        (N,) float64; positive where that class wins.
    """
    rows = np.arange(len(logits))
    others = logits.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    gaps: FloatArray = own - others.max(axis=1)
    return gaps


def margin_gap(original: npt.NDArray[np.floating], clipped: npt.NDArray[np.floating]) -> FloatArray:
    """Confidence that clipping takes away: margin of the original's decision, before minus after.

    Args:
        original, clipped: (N, K) logits of the two networks on the same inputs.

    Returns:
        (N,) float64 in logits; large is suspicious.
    """
    decisions = original.argmax(axis=1)
    return margin(original, decisions) - margin(clipped, decisions)


def exclude_class(logits: npt.NDArray[np.floating], labels: IntArray) -> npt.NDArray[np.floating]:
    """Put one class of each row last: one below the lowest of the others.

    Args:
        logits: (N, K), K >= 2.
        labels: (N,) int64, the class of each row to put last.

    Returns:
        (N, K) of the same dtype; the arg max of a row is its best class other than `labels`.
    """
    rows = np.arange(len(logits))
    result = logits.copy()
    result[rows, labels] = np.inf
    lowest = result.min(axis=1)
    # Where logits are so large that 1 is lost in rounding, the next number below must do.
    result[rows, labels] = np.minimum(lowest - 1, np.nextafter(lowest, -np.inf, dtype=logits.dtype))
    return result


def check_null_samples(n: int) -> None:
    """Refuse too few samples for a null distribution.

    Raises:
        CleanSetError: fewer than 20.
    """
    if n < MIN_NULL_SAMPLES:
        raise CleanSetError(
            f"the null distribution needs at least {MIN_NULL_SAMPLES} clean inputs, {n} came; "
            "give more clean inputs (50 a class is what the method was designed on)"
        )


@dataclass(frozen=True)
class ExpectedGap:
    """The margin gap that a clean input is expected to have: a line in the original's margin, one for each decision.

    Clipping takes more from confident inputs than from doubtful ones, and more from some classes than from others. The
    test is on what goes beyond (least squares; the lines are parallel).

    Attributes:
        intercepts: (K,) in logits, by the original's decision. slope: of all lines.
    """

    intercepts: tuple[float, ...]
    slope: float

    @classmethod
    def zero(cls, classes: int) -> "ExpectedGap":
        """Nothing is expected: the test is on the gap itself, as in the paper."""
        return cls((0.0,) * classes, 0.0)

    @classmethod
    def fit(cls, gaps: FloatArray, margins: FloatArray, decisions: IntArray, classes: int) -> "ExpectedGap":
        """Fit the lines to clean inputs. Intercepts of classes with few inputs are drawn to the mean of all.

        Args:
            gaps: (n,) float64, margin gaps. margins: (n,) float64, of the original's decisions.
            decisions: (n,) int64, the original's. classes: K.
        """
        counts = np.bincount(decisions, minlength=classes)

        def within(values: FloatArray) -> FloatArray:
            means = np.bincount(decisions, values, classes) / np.maximum(counts, 1)
            centred: FloatArray = values - means[decisions]
            return centred

        spread = within(margins) @ within(margins)
        slope = float(within(gaps) @ within(margins) / spread) if spread > 0 else 0.0
        rest = gaps - slope * margins
        totals = np.bincount(decisions, rest, classes) + POOLED_INPUTS * rest.mean()
        return cls(tuple((totals / (counts + POOLED_INPUTS)).tolist()), slope)

    def __call__(self, margins: FloatArray, decisions: IntArray) -> FloatArray:
        """Expected gaps (N,) in logits of inputs whose margins (N,) and decisions (N,) by the original are these."""
        expected: FloatArray = np.asarray(self.intercepts)[decisions] + self.slope * margins
        return expected


@dataclass(frozen=True)
class GaussianNull:
    """The margin gap of clean inputs as a Gaussian (paper, section 3.1), after a power transform.

    Clean gaps are skewed to the right, so that a plain Gaussian flags several times as many clean inputs as its level
    says. Yeo and Johnson's transform (Biometrika 87, 2000) of the gap over a scale keeps the order of the gaps and
    takes the skew away. Power and scale are fitted together, so that the unit of the logits does not matter.

    Attributes:
        mean, std: of the transformed gaps. n: samples it was fitted on.
        power: exponent of the transform in [0, 2]; 1 is no transform: the paper's null.
        scale: in logits, what gaps are divided by before the transform.
    """

    mean: float
    std: float
    n: int
    power: float = 1.0
    scale: float = 1.0

    @classmethod
    def fit(cls, gaps: FloatArray, power: float | None = None) -> "GaussianNull":
        """Fit by the sample's mean and standard deviation (ddof 1).

        Args:
            gaps: (n,) float64, margin gaps of clean inputs.
            power: exponent of the transform; None takes the most likely one.

        Raises:
            CleanSetError: fewer than 20 gaps, or all of them equal.
        """
        check_null_samples(len(gaps))
        if not gaps.std() > 0:
            raise CleanSetError(
                "clipping changes every clean input's margin alike, so there is no null distribution to test against; "
                "check that the clean inputs differ from each other and are what the model expects"
            )
        power, scale = _most_likely_transform(gaps) if power is None else (power, 1.0)
        transformed = yeo_johnson(gaps / scale, power)
        return cls(float(transformed.mean()), float(transformed.std(ddof=1)), len(gaps), power, scale)

    def p_values(self, gaps: FloatArray) -> FloatArray:
        """Upper tail: the probability that a clean input has a gap at least as large.

        Args:
            gaps: (N,) float64.

        Returns:
            (N,) float64 in [0, 1]; small is suspicious.
        """
        p_values: FloatArray = ndtr(-self.standardise(gaps))
        return p_values

    def standardise(self, gaps: FloatArray) -> FloatArray:
        """Gaps (N,) in standard deviations of the null above its mean, after the transform."""
        return (yeo_johnson(gaps / self.scale, self.power) - self.mean) / self.std


def yeo_johnson(x: FloatArray, power: float) -> FloatArray:
    """Yeo and Johnson's power transform: increasing, and unbounded above and below for a power in [0, 2]."""
    transformed: FloatArray = np.where(
        x < 0, -boxcox1p(-np.minimum(x, 0), 2 - power), boxcox1p(np.maximum(x, 0), power)
    )
    return transformed


def _most_likely_transform(gaps: FloatArray) -> tuple[float, float]:
    """Power and scale of the greatest likelihood, over scales from 1/32 to 32 standard deviations."""
    # Imported here: it takes longer to load than all that serving needs.
    from scipy.stats import yeojohnson_llf, yeojohnson_normmax

    candidates = []
    for scale in gaps.std(ddof=1) * 2.0 ** np.arange(-5, 6):
        # Outside [0, 2] the transform is bounded on one side: no gap, however large, could reach a small p-value.
        power = float(np.clip(yeojohnson_normmax(gaps / scale), 0.0, 2.0))
        likelihood = float(yeojohnson_llf(power, gaps / scale)) - len(gaps) * np.log(scale)
        candidates.append((likelihood, power, float(scale)))
    _, power, scale = max(candidates)
    return power, scale


@dataclass(frozen=True)
class MmdfTest:
    """MMDF (paper, section 3.1): flag by confidence, flag by disagreement.

    The p-value is of the gap beyond what is expected; at most `theta`, it flags for confidence. Inputs on which the two
    networks decide differently are flagged for disagreement if, besides, their p-value is at most
    `disagreement_theta`: 1 is the paper's rule (any disagreement flags). At most a share
    `max(theta, disagreement_theta)` of clean inputs is flagged where the null holds, for whatever reason.
    """

    null: GaussianNull
    theta: float
    disagreement_theta: float
    expected: ExpectedGap

    def __call__(
        self, original: npt.NDArray[np.floating], clipped: npt.NDArray[np.floating]
    ) -> tuple[FloatArray, FloatArray, BoolArray, BoolArray]:
        """Test a batch.

        Args:
            original, clipped: (N, K) logits of the two networks on the same inputs.

        Returns:
            Margin gaps (N,), p-values (N,), flagged for disagreement (N,), flagged for confidence (N,).
        """
        decisions = original.argmax(axis=1)
        margins = margin(original, decisions)
        gaps = margins - margin(clipped, decisions)
        p_values = self.null.p_values(gaps - self.expected(margins, decisions))
        disagree = decisions != clipped.argmax(axis=1)
        return gaps, p_values, disagree & (p_values <= self.disagreement_theta), p_values <= self.theta
