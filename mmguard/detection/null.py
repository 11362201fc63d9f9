"""Margins, null distributions and p-values (paper, section 3.1). NumPy and SciPy only."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import boxcox1p, ndtr

from mmguard.errors import CleanSetError, OptionError
from mmguard.types import FloatArray

MIN_NULL_SAMPLES = 20
"""Below this, the standard deviation of the null is too uncertain for any tail to be read off it."""

TAIL_POWER = 3.0
"""By what power of the score `ranked_tail` falls beyond the largest clean score: in the end, that of Student's t with 3
degrees of freedom. Networks' scores fall faster."""


RANK_ROUNDING = 1e-9
"""What the product of a level and a number of ranks may lack of a whole number by rounding."""


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


def enough_for_ranks(theta: float) -> int:
    """How many clean inputs it takes for a rank among them to reach a p-value of theta."""
    return math.ceil(1 / theta) - 1


def check_level(theta: float, n: int) -> None:
    """Refuse a level below 1 / (1 + n), the least p-value that a rank among n clean inputs can give.

    Raises:
        OptionError: it is.
    """
    if theta < 1 / (1 + n):
        raise OptionError(
            f"theta {theta:g} is below {1 / (1 + n):.2g}, the least empirical p-value that {n} clean inputs can give; "
            f"give {enough_for_ranks(theta)} of them, a larger theta, or another null"
        )


@dataclass(frozen=True)
class GaussianNull:
    """A statistic of clean inputs, in logits, as a Gaussian (paper, section 3.1), after a power transform.

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


def empirical_p_values(values: FloatArray, clean: FloatArray) -> FloatArray:
    """Share of clean inputs, this one counted, whose statistic is at least as large: (1 + k) / (1 + n).

    For an input exchangeable with n clean ones that shaped nothing, the probability of a p-value of at most θ is at
    most θ, whatever the distribution (Vovk et al. 2005, "Algorithmic learning in a random world").

    Args:
        values: (N,) float64. clean: (n,) float64, ascending.

    Returns:
        (N,) float64 in [1 / (1 + n), 1]; small is suspicious.
    """
    exceeding = len(clean) - np.searchsorted(clean, values, side="left")
    p_values: FloatArray = (1 + exceeding) / (1 + len(clean))
    return p_values


def ranked_tail(scores: FloatArray, clean: FloatArray) -> FloatArray:
    """p-values by rank, which go on falling beyond the largest clean score.

    Up to that score they are `empirical_p_values`. Beyond it, a score s has (largest / s)^3 / (1 + n), so that few
    clean inputs can reach a small level too, and only by far. At levels of 1 / (1 + n) and above they are as valid as
    ranks. Below, a clean input reaches a level with a probability of at most 1 / (1 + n), and of at most twice that
    level, down to a tenth of 1 / (1 + n), where the tail of its scores is no heavier than that of Student's t with 3
    degrees of freedom.

    Args:
        scores: (N,) float64, in standard deviations above the clean mean. clean: (n,) float64, ascending, the largest
            of them positive.

    Returns:
        (N,) float64 in (0, 1]; small is suspicious.
    """
    largest = clean[-1]
    p_values: FloatArray = empirical_p_values(scores, clean) * (largest / np.maximum(scores, largest)) ** TAIL_POWER
    return p_values


def ranked_score(theta: float, clean: FloatArray) -> float:
    """The least score beyond which `ranked_tail` is at most theta.

    Args:
        clean: (n,) float64, ascending, the largest of them positive.
    """
    places = int(theta * (1 + len(clean)) + RANK_ROUNDING)
    return float(clean[-places] if places else clean[-1] / (theta * (1 + len(clean))) ** (1 / TAIL_POWER))


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
