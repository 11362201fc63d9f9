"""Margins of logits: how surely a network decides for a class (paper, section 3.1)."""

import numpy as np
import numpy.typing as npt

from mmguard.types import FloatArray, IntArray


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
