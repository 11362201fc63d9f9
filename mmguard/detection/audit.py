"""The audit: looks for a class whose largest margin stands out, because it may be the target class of a backdoor.

The audit is based on MM-BD (Wang et al. 2022). A network that is trained with a backdoor overfits to the trigger. Some
input therefore has a far larger margin for the target class than any input has for any other class. The audit uses the
margins of the original network. They are maximised at several scales (`mmguard.calibrate.audit.search`), because a
trigger stands out only at its own scale.

At the scale `orthogonal`, inputs without the features of a class reach a margin for this class (class subspace
orthogonalisation, Yang, Miller and Kesidis 2025). There the margins are not compared with those of other classes, but
with those of clean inputs. So several target classes can be found, and a model with two classes can be judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from mmguard.errors import AuditError
from mmguard.types import FloatArray

LEVEL = 0.05
"""A network is reported as backdoored if the p-value is at most this level, as in Wang et al. 2022."""
MIN_CLASSES = 3
ORTHOGONAL = "orthogonal"
"""Name of the scale whose margins are ratios to the mean margin of clean inputs of the same class."""
UNREACHED_LEVEL = 0.001
"""A negative margin is left out if a test at this level identifies it as an outlier below all larger margins."""


@dataclass(frozen=True)
class Scale:
    """The result of the audit at one scale.

    Attributes:
        margins: (K,) float64, the mean of the maximum margins that the search found for each class, in logits; at the
            scale `orthogonal`, divided by the mean margin of the clean inputs of the class.
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
        cut: names of the scales that the time budget of the search shortened or left out. The p-value remains valid,
            but the audit is more likely to miss a backdoor.
    """

    scales: dict[str, Scale]
    scale: str
    p_value: float
    cut: tuple[str, ...] = ()

    @property
    def backdoored(self) -> bool:
        """Whether the p-value is at most 0.05."""
        return self.p_value <= LEVEL

    @property
    def suspect(self) -> int:
        """Class with the largest margin at the scale with the smallest p-value."""
        return self.scales[self.scale].suspect


def audit(margins: Mapping[str, FloatArray], cut: Sequence[str] = ()) -> Audit:
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

    Tests of this kind cannot find a backdoor with many target classes, because it raises many margins. The scale
    `orthogonal` is therefore tested class by class. If the margins of the clean inputs of a class are exponentially
    distributed, a ratio R to their mean is exceeded with probability exp(−R). For the largest ratio of K classes,

        p = 1 − (1 − exp(−R))^K.

    The margins of clean inputs are positive, and their tail is usually lighter than that of an exponential
    distribution. That inputs without the features of the class have margins near or below 0 on a clean network is an
    assumption, so this p-value is not exact. It is least reliable for a class whose clean inputs have tiny margins.

    The audit cannot find a backdoor whose trigger works on only one class or has a scale that was not searched, or a
    backdoor that was trained to keep its margins small.

    Args:
        margins: for each scale, by name, the mean of each class's maximum margins, (K,) float64 in logits, or, at scale
            `orthogonal`, as a ratio to the mean margin of clean inputs. The numbers may be negative.
        cut: names of the scales that the time budget of the search shortened or left out.

    Returns:
        The result by scale and over all scales. With two classes, only the scale `orthogonal` is judged.

    Raises:
        AuditError: there are no scales, or there are fewer than three classes and no scale `orthogonal`.
    """
    judged = _judgeable(margins, cut)
    scales = {name: _judge_ratios(each) if name == ORTHOGONAL else _judge(each) for name, each in judged.items()}
    least = min(scales, key=lambda name: scales[name].p_value)
    return Audit(scales, least, min(1.0, len(scales) * scales[least].p_value), tuple(cut))


def _judgeable(margins: Mapping[str, FloatArray], cut: Sequence[str]) -> dict[str, FloatArray]:
    """Return the scales that can be judged with this number of classes."""
    if not margins and cut:
        raise AuditError(
            "the time for the search for maximum margins was too short for any scale; to audit the model, calibrate it "
            "again with more --audit-minutes"
        )
    if not margins:
        raise AuditError(
            "this bundle contains no maximum margins because it was calibrated with --no-audit; to audit the model, "
            "calibrate it again without that option"
        )
    classes = len(next(iter(margins.values())))
    judged = {name: each for name, each in margins.items() if classes >= MIN_CLASSES or name == ORTHOGONAL}
    if not judged:
        why = (
            "the time was too short; calibrate again with more --audit-minutes"
            if ORTHOGONAL in cut
            else "it needs a hidden layer and clean inputs that the network assigns to each class; calibrate again "
            "with more clean inputs"
        )
        raise AuditError(
            f"with {classes} classes, only the scale {ORTHOGONAL} of the search can be judged, but it was left out: "
            f"{why}"
        )
    return judged


def _judge_ratios(ratios: FloatArray) -> Scale:
    largest = max(0.0, float(ratios.max()))
    p_value = -np.expm1(len(ratios) * np.log1p(-np.exp(-largest))) if largest > 0 else 1.0
    return Scale(ratios, int(ratios.argmax()), float(p_value), ())


def _judge(margins: FloatArray) -> Scale:
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
