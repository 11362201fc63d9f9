"""Null distributions of a statistic on clean inputs, and p-values (paper, section 3.1). Needs only NumPy and SciPy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import boxcox1p, ndtr

from mmguard.errors import CleanSetError, OptionError
from mmguard.types import FloatArray

MIN_NULL_SAMPLES = 20
"""Minimum number of clean inputs. With fewer inputs, the null's standard deviation is too uncertain for small
p-values."""

TAIL_POWER = 3.0
"""Exponent p of `ranked_tail`: beyond the largest clean score, the p-value is proportional to 1 / score^p. The far tail
of Student's t distribution with 3 degrees of freedom falls at the same rate. The tails of networks' scores fall
faster."""


RANK_ROUNDING = 1e-9
"""Rounding tolerance: the product of a level and a number of ranks is rounded up if it is this close to the next whole
number."""


def check_null_samples(n: int) -> None:
    """Check that there are enough samples to fit a null distribution.

    Args:
        n: number of clean inputs.

    Raises:
        CleanSetError: there are fewer than 20 clean inputs.
    """
    if n < MIN_NULL_SAMPLES:
        raise CleanSetError(
            f"the null distribution needs at least {MIN_NULL_SAMPLES} clean inputs, got {n}; "
            "provide more clean inputs (the method is designed for 50 per class)"
        )


def enough_for_ranks(theta: float) -> int:
    """Return how many clean inputs are needed so that empirical p-values can be as small as theta.

    Args:
        theta: level of the test, in (0, 1].

    Returns:
        The smallest number n for which 1 / (1 + n) is at most theta.

    Example:
        >>> enough_for_ranks(0.005)
        199
    """
    return math.ceil(1 / theta) - 1


def check_level(theta: float, n: int) -> None:
    """Check that empirical p-values from n clean inputs can be as small as theta.

    The smallest possible p-value is 1 / (1 + n).

    Args:
        theta: level of the test, in (0, 1].
        n: number of clean inputs.

    Raises:
        OptionError: theta is below 1 / (1 + n).
    """
    if theta < 1 / (1 + n):
        raise OptionError(
            f"theta {theta:g} is below {1 / (1 + n):.3g}, the smallest empirical p-value that {n} clean inputs can "
            f"produce; provide at least {enough_for_ranks(theta)} clean inputs, or use a larger theta or a "
            "different null"
        )


@dataclass(frozen=True)
class GaussianNull:
    """A Gaussian distribution, fitted to a power-transformed statistic of clean inputs (paper, section 3.1).

    Margin gaps of clean inputs are skewed to the right, so a test based on a plain Gaussian would flag several times as
    many clean inputs as its level allows. The transform of Yeo and Johnson (Biometrika 87, 2000), applied to the gap
    divided by a scale, keeps the order of the gaps and removes the skew. Power and scale are fitted together, so the
    unit of the logits does not matter.

    Attributes:
        mean: mean of the transformed gaps.
        std: standard deviation of the transformed gaps.
        n: number of clean inputs to which the null was fitted.
        power: exponent of the transform, in [0, 2]; 1 means no transform, as in the paper.
        scale: number by which the gaps are divided before the transform, in logits.
    """

    mean: float
    std: float
    n: int
    power: float = 1.0
    scale: float = 1.0

    @classmethod
    def fit(cls, gaps: FloatArray, power: float | None = None) -> "GaussianNull":
        """Fit the null with the sample mean and standard deviation (ddof 1).

        Args:
            gaps: (n,) float64, margin gaps or another statistic of clean inputs, in logits.
            power: exponent of the transform; None uses the maximum-likelihood exponent.

        Returns:
            The fitted null.

        Raises:
            CleanSetError: there are fewer than 20 gaps, or all of them are equal.
        """
        check_null_samples(len(gaps))
        if not gaps.std() > 0:
            raise CleanSetError(
                "clipping changes the margin of every clean input by the same amount, so there is no null distribution "
                "to test against; check that the clean inputs differ and are preprocessed as the model expects"
            )
        power, scale = _most_likely_transform(gaps) if power is None else (power, 1.0)
        transformed = yeo_johnson(gaps / scale, power)
        return cls(float(transformed.mean()), float(transformed.std(ddof=1)), len(gaps), power, scale)

    def p_values(self, gaps: FloatArray) -> FloatArray:
        """Compute, for each gap, the probability that a clean input has a gap at least as large.

        Args:
            gaps: (N,) float64, in logits; larger is more suspicious.

        Returns:
            (N,) float64 in [0, 1]; smaller is more suspicious.
        """
        p_values: FloatArray = ndtr(-self.standardise(gaps))
        return p_values

    def standardise(self, gaps: FloatArray) -> FloatArray:
        """Convert gaps to scores: transform the gaps, subtract the null's `mean`, and divide by the null's `std`.

        Args:
            gaps: (N,) float64, in logits.

        Returns:
            (N,) float64, in standard deviations of the transformed gaps; larger is more suspicious.
        """
        return (yeo_johnson(gaps / self.scale, self.power) - self.mean) / self.std


@dataclass(frozen=True)
class GaussianNulls:
    """The nulls of several statistics, applied at once.

    Attributes:
        means: (m, 1) float64, `GaussianNull.mean` of each null; the other arrays hold its other attributes.
        stds: (m, 1) float64.
        powers: (m, 1) float64.
        scales: (m, 1) float64.
    """

    means: FloatArray
    stds: FloatArray
    powers: FloatArray
    scales: FloatArray

    @classmethod
    def of(cls, nulls: Sequence[GaussianNull]) -> "GaussianNulls":
        """Collect nulls.

        Args:
            nulls: the nulls of m statistics.

        Returns:
            The same nulls.
        """
        columns = zip(*((each.mean, each.std, each.power, each.scale) for each in nulls), strict=True)
        return cls(*(np.array(column, np.float64)[:, None] for column in columns))

    def standardise(self, values: FloatArray) -> FloatArray:
        """Convert the values of each statistic to scores, as `GaussianNull.standardise` does.

        Args:
            values: (m, N) float64, the values of each statistic for N inputs.

        Returns:
            (m, N) float64; larger is more suspicious.
        """
        scores: FloatArray = (yeo_johnson(values / self.scales, self.powers) - self.means) / self.stds
        return scores


def empirical_p_values(values: FloatArray, clean: FloatArray) -> FloatArray:
    """Compute p-values by rank: (1 + k) / (1 + n), where k of the n clean values are at least as large.

    If an input is exchangeable with n clean inputs that were not used to fit the statistic, its p-value is at most θ
    with a probability of at most θ, for any distribution (Vovk et al. 2005, "Algorithmic learning in a random world").

    Args:
        values: (N,) float64; larger is more suspicious.
        clean: (n,) float64, values of clean inputs in ascending order.

    Returns:
        (N,) float64 in [1 / (1 + n), 1]; smaller is more suspicious.

    Example:
        >>> empirical_p_values(np.array([0.0, 9.0]), np.array([1.0, 2.0, 5.0])).tolist()
        [1.0, 0.25]
    """
    exceeding = len(clean) - np.searchsorted(clean, values, side="left")
    p_values: FloatArray = (1 + exceeding) / (1 + len(clean))
    return p_values


def ranked_tail(scores: FloatArray, clean: FloatArray) -> FloatArray:
    """Compute rank-based p-values that keep falling beyond the largest clean score.

    Up to the largest clean score, these p-values equal `empirical_p_values`. Beyond it, a score s gets the p-value
    (largest / s)^3 / (1 + n). Even if there are few clean inputs, an input can therefore have a small p-value, but only
    if its score is far beyond the largest clean score.

    At levels of 1 / (1 + n) and above, these p-values are as valid as empirical p-values. At any lower level, the
    probability that a clean input has a p-value of at most that level is at most 1 / (1 + n). For levels down to a
    tenth of 1 / (1 + n), this probability is also at most twice the level, provided that the scores have no heavier
    upper tail than Student's t distribution with 3 degrees of freedom.

    Args:
        scores: (N,) float64, in standard deviations above the clean mean; larger is more suspicious.
        clean: (n,) float64, scores of clean inputs in ascending order; the largest must be positive.

    Returns:
        (N,) float64 in (0, 1]; smaller is more suspicious.

    Example:
        >>> ranked_tail(np.array([2.0, 4.0]), np.array([-1.0, 0.5, 2.0])).tolist()
        [0.5, 0.03125]
    """
    largest = clean[-1]
    p_values: FloatArray = empirical_p_values(scores, clean) * (largest / np.maximum(scores, largest)) ** TAIL_POWER
    return p_values


def ranked_score(theta: float, clean: FloatArray) -> float:
    """Return the score above which the p-value computed by `ranked_tail` is at most theta.

    Args:
        theta: level of the test, in (0, 1].
        clean: (n,) float64, scores of clean inputs in ascending order; the largest must be positive.

    Returns:
        The score, in standard deviations above the clean mean.
    """
    places = int(theta * (1 + len(clean)) + RANK_ROUNDING)
    return float(clean[-places] if places else clean[-1] / (theta * (1 + len(clean))) ** (1 / TAIL_POWER))


def yeo_johnson(x: FloatArray, power: float | FloatArray) -> FloatArray:
    """Apply the power transform of Yeo and Johnson.

    The transform is increasing. For powers in [0, 2], it is unbounded on both sides.

    Args:
        x: values, float64 of any shape.
        power: exponent, in [0, 2], or an array of exponents that broadcasts to x; 1 is the identity.

    Returns:
        The transformed values, float64 of the same shape.

    Example:
        >>> yeo_johnson(np.array([0.0, 3.0]), 0.5).tolist()
        [0.0, 2.0]
    """
    transformed: FloatArray = boxcox1p(np.abs(x), np.where(x < 0, 2 - power, power))
    return np.copysign(transformed, x)


def _most_likely_transform(gaps: FloatArray) -> tuple[float, float]:
    """Return the maximum-likelihood power and scale. Try scales from 1/32 to 32 standard deviations."""
    # Imported here because it takes longer to load than everything else that serving needs.
    from scipy.stats import yeojohnson_llf, yeojohnson_normmax

    candidates = []
    for scale in gaps.std(ddof=1) * 2.0 ** np.arange(-5, 6):
        # Outside [0, 2] the transform is bounded on one side, so even the largest gap might not have a small p-value.
        power = float(np.clip(yeojohnson_normmax(gaps / scale), 0.0, 2.0))
        likelihood = float(yeojohnson_llf(power, gaps / scale)) - len(gaps) * np.log(scale)
        candidates.append((likelihood, power, float(scale)))
    _, power, scale = max(candidates)
    return power, scale
