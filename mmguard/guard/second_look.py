"""A second look at flagged inputs: the clipped network also runs on their mirror images, and the answers are averaged.

Corrected labels are needed for few inputs, so they may cost more than the test. Calibration decides whether mirror
images keep their labels (`mmguard.pipeline.mirror`).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from mmguard.types import IntArray

Logits = npt.NDArray[np.float32]
OfMirrored = Callable[[IntArray], Logits | None]
"""Takes row numbers (n,) of a batch, and returns the clipped network's logits (n, K) of these inputs' mirror images, or
None if the network failed."""


class SecondLook:
    """The clipped network's logits, in which flagged rows are averaged over the input and its mirror image.

    Args:
        clipped: (N, K) the clipped network's logits.
        mirrored: returns the logits of mirror images; None to answer from `clipped` alone.

    Attributes:
        logits: (N, K) the logits from which rows are answered.
    """

    def __init__(self, clipped: Logits, mirrored: OfMirrored | None) -> None:
        self.logits = clipped
        self._mirrored = mirrored

    def __call__(self, flagged: IntArray) -> Logits:
        """Look at flagged rows again. Where that fails, they are answered from the clipped network's first logits.

        Args:
            flagged: (n,) row numbers of the flagged inputs.

        Returns:
            The logits (N, K) from which rows are answered.
        """
        mirrored = self._mirrored(flagged) if self._mirrored is not None and len(flagged) else None
        if mirrored is not None:
            finite = np.isfinite(mirrored).all(axis=1)
            rows = flagged[finite]
            self.logits = self.logits.copy()
            self.logits[rows] = averaged(self.logits[rows], mirrored[finite])
        return self.logits

    def within(self, rows: IntArray) -> Callable[[IntArray], Logits]:
        """Return a function like this one for some rows of the batch, numbered from 0.

        Args:
            rows: (M,) row numbers of the rows.
        """
        return lambda flagged: self(rows[flagged])[rows]


def averaged(a: Logits, b: Logits) -> Logits:
    """Return logits whose softmax is the mean of the softmax of two sets of logits, at the mean of their levels.

    Args:
        a: (n, K) logits.
        b: (n, K) logits.

    Returns:
        (n, K) float32.

    Example:
        >>> averaged(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)).tolist()
        [[0.0, 0.0]]
    """
    pair = np.stack([a, b]).astype(np.float64)
    level = logsumexp(pair, axis=2, keepdims=True).mean(axis=0)
    mean: Logits = (logsumexp(log_softmax(pair, axis=2), axis=0) - np.log(2) + level).astype(np.float32)
    return mean
