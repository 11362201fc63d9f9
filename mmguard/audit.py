"""Is a network backdoored at all? A class whose maximum margin stands out from the others' is the target of a backdoor.

MM-BD (Wang et al. 2022): backdoored training overfits to the trigger, so that some input is decided for the target
class by far more than any input is for another one. The margins are those of the original network, as the margin search
of a calibration found them.
"""

from dataclasses import dataclass

import numpy as np

from mmguard.errors import AuditError
from mmguard.types import FloatArray

LEVEL = 0.05
"""A network is judged backdoored at a p-value of at most this, as in Wang et al. 2022."""
MIN_CLASSES = 3


@dataclass(frozen=True)
class Audit:
    """What the maximum margins say.

    Attributes:
        margins: (K,) float64, mean margin that the search for maxima reached, by class, in logits.
        suspect: class with the largest margin.
        p_value: probability that the largest margin stands out so far without a backdoor; small is suspicious.
    """

    margins: FloatArray
    suspect: int
    p_value: float

    @property
    def backdoored(self) -> bool:
        """Whether the p-value is at most 0.05."""
        return self.p_value <= LEVEL


def audit(margins: FloatArray) -> Audit:
    """Test whether the largest margin is an outlier among those of all classes.

    MM-BD takes the maximum margin of each class, this the mean over many maxima. The test is that of Grubbs (1950,
    "Sample criteria for testing outlying observations") on the logarithms, whose level holds at any number of classes
    where margins are log-normal. MM-BD's own, a gamma distribution fitted to all margins but the largest, forgets that
    the largest was taken out, and fires too often where classes are few. A backdoor with many targets raises many
    margins, and neither sees it; nor does this where another class's margin is close to 0, which widens the spread.

    Args:
        margins: (K,) float64, mean over each class's maximisers, in logits. One that is not positive is of a class that
            the search did not reach; it says nothing, and is left out.

    Raises:
        AuditError: fewer than three classes were reached.
    """
    from scipy.stats import t as student  # takes longer to load than all that serving needs

    reached = np.log(margins[margins > 0])
    n = len(reached)
    if n < MIN_CLASSES:
        raise AuditError(f"an audit compares the maximum margins of {MIN_CLASSES} classes or more; {n} were reached")
    spread = reached.std(ddof=1)
    distance = (reached.max() - reached.mean()) / spread if spread > 0 else 0.0
    room = (n - 1) ** 2 - n * distance**2  # 0 where all margins but the largest are equal
    statistic = distance * np.sqrt(n * (n - 2) / room) if room > 0 else np.inf
    return Audit(margins, int(margins.argmax()), min(1.0, n * float(student.sf(statistic, n - 2))))
