"""Is a network backdoored at all? A class whose maximum margin stands out from the others' is the target of a backdoor.

MM-BD (Wang et al. 2022): backdoored training overfits to the trigger, so that some input is decided for the target
class by far more than any input is for another one. The margins are those of the original network, searched at several
scales (`mmguard.calibrate.audit.search`): a trigger shows at its own scale, and is drowned at the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from mmguard.errors import AuditError
from mmguard.types import FloatArray

LEVEL = 0.05
"""A network is judged backdoored at a p-value of at most this, as in Wang et al. 2022."""
MIN_CLASSES = 3
UNREACHED_LEVEL = 0.001
"""A class that is never decided for is left out where its margin lies below the others' with at most this p-value."""


@dataclass(frozen=True)
class Scale:
    """What the margins of one scale say.

    Attributes:
        margins: (K,) float64, mean margin that the search for maxima reached, by class, in logits.
        suspect: class with the largest margin.
        p_value: probability that the largest margin stands out so far at this scale without a backdoor.
        left_out: classes with a negative margin so far below the others' that the search did not reach them. They
            say nothing, and would hide a target by widening the spread.
    """

    margins: FloatArray
    suspect: int
    p_value: float
    left_out: tuple[int, ...]


@dataclass(frozen=True)
class Audit:
    """What the maximum margins say.

    Attributes:
        scales: what each scale says, by its name.
        scale: name of the one with the smallest p-value, which alarmed if any did.
        p_value: probability that the largest margin of any scale stands out so far without a backdoor: the smallest
            p-value times the number of scales. Small is suspicious.
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
        """Class with the largest margin at the scale of the smallest p-value."""
        return self.scales[self.scale].suspect


def audit(margins: Mapping[str, FloatArray]) -> Audit:
    """Test whether the largest margin of any scale is an outlier among those of all classes at that scale.

    MM-BD takes the maximum margin of each class, this the mean over many maxima. At each scale the test is that of
    Grubbs (1950, "Sample criteria for testing outlying observations"): with m the mean and s the standard deviation of
    n margins,

        G = (max − m) / s,   t = G √(n (n − 2) / ((n − 1)² − n G²)),   p = n P(T > t), T Student's with n − 2 degrees,

    where t is how far the largest margin lies above the mean of the others, in units of the error with which these
    predict it. Its level holds for any number of classes where margins are normal, however wide. The smallest p-value
    times the number of scales is Bonferroni's, whose level holds however scales depend on each other.

    MM-BD's own test, a gamma distribution fitted to all margins but the largest, forgets that the largest was taken
    out, and fires too often where classes are few; it also needs positive margins, which a scale as faint as a trigger
    does not have in a clean network.

    What no such test sees: a backdoor with many targets, which raises many margins; one whose trigger works on one
    class only, or is of no scale that is searched; one that was trained to keep its margins modest.

    Args:
        margins: (K,) float64 by name of a scale, mean over each class's maximisers, in logits; negative ones are
            margins like others.

    Raises:
        AuditError: fewer than three classes, or no scale.
    """
    if not margins:
        raise AuditError(
            "this bundle holds no maximum margins, because it was calibrated with --no-audit; calibrate again without "
            "it to have the model judged"
        )
    scales = {name: _judge(values) for name, values in margins.items()}
    least = min(scales, key=lambda name: scales[name].p_value)
    return Audit(scales, least, min(1.0, len(scales) * scales[least].p_value))


def _judge(margins: FloatArray) -> Scale:
    n = len(margins)
    if n < MIN_CLASSES:
        raise AuditError(
            f"an audit looks for one class that stands out from all others, which takes {MIN_CLASSES} classes or more, "
            f"and this model has {n}; that says nothing for or against a backdoor"
        )
    order = np.argsort(margins, kind="stable")  # the lowest first
    lowest = _unreached(margins[order])
    return Scale(
        margins, int(order[-1]), grubbs(margins[order[lowest:]]), tuple(sorted(int(label) for label in order[:lowest]))
    )


def _unreached(ordered: FloatArray) -> int:
    """How many of the margins (n,), the lowest first, are negative and far below all above them; never half of them."""
    below = ordered[:-1]  # without the largest, which would hide them
    sizes = np.arange(len(below), 0, -1, dtype=np.float64)
    from_top = (below - below[-1])[::-1]
    means, squares = (np.cumsum(values)[::-1] / sizes for values in (from_top, from_top**2))
    spreads = np.sqrt(np.maximum(squares - means**2, 0) * sizes / np.maximum(sizes - 1, 1))
    far = _tail(means - from_top[::-1], spreads, sizes) <= UNREACHED_LEVEL
    far &= (below < 0) & (np.arange(len(below)) < (len(ordered) - 1) // 2) & (sizes > MIN_CLASSES)
    return int(far.nonzero()[0].max(initial=-1)) + 1


def grubbs(values: FloatArray) -> float:
    """P-value of the largest of values (n,), n at least 3, as an outlier: the one-sided test of Grubbs (1950)."""
    return float(_tail(values.max() - values.mean(), values.std(ddof=1), len(values)))


def _tail(distance: FloatArray | float, spread: FloatArray | float, n: FloatArray | int) -> FloatArray:
    """Grubbs' p-values, of how far extremes lie from means of n values whose standard deviations are `spread`."""
    distance, n = np.asarray(distance, np.float64), np.asarray(n, np.float64)
    ratio = np.divide(distance, spread, out=np.zeros_like(distance), where=np.asarray(spread) > 0)
    room = np.maximum((n - 1) ** 2 - n * ratio**2, 1e-12)  # 0 where all values but the extreme are equal
    statistic = ratio * np.sqrt(n * np.maximum(n - 2, 0) / room)
    p_values: FloatArray = np.minimum(1.0, n * stdtr(np.maximum(n - 2, 1), -statistic))
    return p_values
