"""The audit: looks for a class whose largest margin stands out, because it may be the target class of a backdoor.

The audit is based on MM-BD (Wang et al. 2022). A network that is trained with a backdoor overfits to the trigger. Some
input therefore has a far larger margin for the target class than any input has for any other class. The audit uses the
margins of the original network. They are maximised at several scales (`mmguard.calibrate.audit.search`), because a
trigger stands out only at its own scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from mmguard.errors import AuditError
from mmguard.types import FloatArray

LEVEL = 0.05
"""A network is reported as backdoored if the p-value is at most this level, as in Wang et al. 2022."""
MIN_CLASSES = 3
UNREACHED_LEVEL = 0.001
"""A negative margin is left out if a test at this level identifies it as an outlier below all larger margins."""


@dataclass(frozen=True)
class Scale:
    """The result of the audit at one scale.

    Attributes:
        margins: (K,) float64, the mean of the maximum margins that the search found for each class, in logits.
        suspect: the class with the largest margin.
        p_value: probability that the largest margin at this scale would stand out at least this far if there were no
            backdoor; smaller is more suspicious.
        left_out: classes whose margin is negative and so far below the other margins that the search must have failed
            for these classes. Their margins are not evidence of a backdoor, but would hide a target class by increasing
            the spread.
    """

    margins: FloatArray
    suspect: int
    p_value: float
    left_out: tuple[int, ...]


@dataclass(frozen=True)
class Audit:
    """The result of the audit over all scales.

    Attributes:
        scales: the result at each scale, by the name of the scale.
        scale: name of the scale with the smallest p-value.
        p_value: probability that the largest margin of any scale would stand out at least this far if there were no
            backdoor. It is the smallest p-value of any scale, multiplied by the number of scales and capped at 1.
            Smaller is more suspicious.
    """

    scales: dict[str, Scale]
    scale: str
    p_value: float

    @property
    def backdoored(self) -> bool:
        """Whether the p-value is at most 0.05."""
        return self.p_value <= LEVEL

    @property
    def suspect(self) -> int:
        """Class with the largest margin at the scale with the smallest p-value."""
        return self.scales[self.scale].suspect


def audit(margins: Mapping[str, FloatArray]) -> Audit:
    """Test whether the largest margin at any scale is an outlier among the margins of all classes at that scale.

    MM-BD uses the maximum margin of each class; mmguard uses the mean of many maxima. At each scale, the test is the
    one-sided test of Grubbs (1950, "Sample criteria for testing outlying observations"). For n margins with mean m and
    standard deviation s,

        G = (max − m) / s,   t = G √(n (n − 2) / ((n − 1)² − n G²)),   p = n P(T > t),

    where T has Student's t distribution with n − 2 degrees of freedom, and t is the distance of the largest margin from
    the mean of the other margins, divided by the standard error of this distance. If the margins are normally
    distributed, the test keeps its level for any number of classes and any spread. Multiplying the smallest p-value by
    the number of scales is Bonferroni's correction, which is valid regardless of how the scales depend on each other.

    MM-BD's own test fits a gamma distribution to all margins except the largest. That test does not account for the
    removal of the largest margin, so it raises too many false alarms if there are few classes. It also needs positive
    margins, which a clean network does not have at the scale of a faint trigger.

    Tests of this kind cannot find a backdoor with many target classes, because it raises many margins. They also cannot
    find a backdoor whose trigger works on only one class or has a scale that was not searched, or a backdoor that was
    trained to keep its margins small.

    Args:
        margins: for each scale, by name, the mean of each class's maximum margins, (K,) float64 in logits. The means
            may be negative.

    Returns:
        The result by scale and over all scales.

    Raises:
        AuditError: there are fewer than three classes, or there are no scales.
    """
    if not margins:
        raise AuditError(
            "this bundle contains no maximum margins because it was calibrated with --no-audit; to audit the model, "
            "calibrate it again without that option"
        )
    scales = {name: _judge(values) for name, values in margins.items()}
    least = min(scales, key=lambda name: scales[name].p_value)
    return Audit(scales, least, min(1.0, len(scales) * scales[least].p_value))


def _judge(margins: FloatArray) -> Scale:
    n = len(margins)
    if n < MIN_CLASSES:
        raise AuditError(
            f"the audit looks for one class that stands out from the others, so it needs at least {MIN_CLASSES} "
            f"classes, but this model has {n}; the model may or may not contain a backdoor"
        )
    order = np.argsort(margins, kind="stable")  # the lowest first
    lowest = _unreached(margins[order])
    return Scale(
        margins, int(order[-1]), grubbs(margins[order[lowest:]]), tuple(sorted(int(label) for label in order[:lowest]))
    )


def _unreached(ordered: FloatArray) -> int:
    """Count the margins (n,), sorted ascending, that are negative and far below all larger margins; fewer than half."""
    below = ordered[:-1]  # without the largest margin, which could hide outliers at the low end
    sizes = np.arange(len(below), 0, -1, dtype=np.float64)
    from_top = (below - below[-1])[::-1]
    means, squares = (np.cumsum(values)[::-1] / sizes for values in (from_top, from_top**2))
    spreads = np.sqrt(np.maximum(squares - means**2, 0) * sizes / np.maximum(sizes - 1, 1))
    far = _grubbs_p_values(means - from_top[::-1], spreads, sizes) <= UNREACHED_LEVEL
    far &= (below < 0) & (np.arange(len(below)) < (len(ordered) - 1) // 2) & (sizes > MIN_CLASSES)
    return int(far.nonzero()[0].max(initial=-1)) + 1


def grubbs(values: FloatArray) -> float:
    """Test the largest value as an outlier: the one-sided test of Grubbs (1950).

    Args:
        values: (n,) float64, where n is at least 3.

    Returns:
        p-value, in [0, 1]; smaller means a clearer outlier.

    Example:
        >>> grubbs(np.array([7.0, 7.0, 7.0]))
        1.0
        >>> grubbs(np.array([1.0, 2.0, 3.0, 30.0])) < 0.01
        True
    """
    return float(_grubbs_p_values(values.max() - values.mean(), values.std(ddof=1), len(values)))


def _grubbs_p_values(distance: FloatArray | float, spread: FloatArray | float, n: FloatArray | int) -> FloatArray:
    """Compute p-values of extreme values at a `distance` from the mean of n values with standard deviation `spread`."""
    distance, n = np.asarray(distance, np.float64), np.asarray(n, np.float64)
    ratio = np.divide(distance, spread, out=np.zeros_like(distance), where=np.asarray(spread) > 0)
    remainder = np.maximum((n - 1) ** 2 - n * ratio**2, 1e-12)  # would be 0 if all other values are equal
    statistic = ratio * np.sqrt(n * np.maximum(n - 2, 0) / remainder)
    p_values: FloatArray = np.minimum(1.0, n * stdtr(np.maximum(n - 2, 1), -statistic))
    return p_values
