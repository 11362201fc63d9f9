"""Margins of logits: how confident a network is in a class (paper, section 3.1)."""

import numpy as np
import numpy.typing as npt

from mmguard.types import BoolArray, FloatArray, IntArray

Logits = npt.NDArray[np.floating]


def margin(logits: Logits, labels: IntArray) -> FloatArray:
    """Return, for each row, the logit of a class minus the largest logit of the other classes.

    Args:
        logits: (N, K) floating point, K >= 2.
        labels: (N,) int64, the class of each row.

    Returns:
        (N,) float64 in logits; positive if the class has the largest logit.

    Example:
        >>> margin(np.array([[5.0, 2.0, 1.0], [0.0, 4.0, 3.0]]), np.array([0, 2])).tolist()
        [3.0, -1.0]
    """
    rows = np.arange(len(logits))
    others = logits.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    gaps: FloatArray = own - others.max(axis=1)
    return gaps


class OriginalReadings:
    """What the test reads from the original network for N inputs, and the decisions and margins that follow.

    All arrays are computed once and then shared, so do not modify them.

    Args:
        original: (N, K) logits of the original network, K >= 2.
        activations: (N, S + 1) what the test reads of the original network's activations: squared distances at S
            sites, and the excess (`mmguard.detection.evidence.ActivationEvidence`); None if they were not computed.

    Attributes:
        original: the original network's logits, as passed.
        activations: what was read of the activations, as passed; (N, 0) if they were not computed.
        decisions: (N,) int64, the original network's decisions.
        original_margins: (N,) float64 in logits, margins of `decisions` under the original network.
    """

    __slots__ = ("activations", "decisions", "original", "original_margins")

    def __init__(self, original: Logits, activations: Logits | None = None) -> None:
        self.original = original
        self.activations: Logits = np.empty((len(original), 0)) if activations is None else activations
        self.decisions: IntArray = original.argmax(axis=1)
        best = np.partition(original, -2, axis=1)[:, -2:].astype(np.float64)
        self.original_margins: FloatArray = best[:, 1] - best[:, 0]


class Readings(OriginalReadings):
    """What the test reads from both networks for the same N inputs, and the decisions and margins that follow.

    Args:
        original: (N, K) logits of the original network, all finite, K >= 2.
        clipped: (N, K) logits of the clipped network, all finite.
        activations: as in `OriginalReadings`, all finite.

    Attributes:
        clipped: the clipped network's logits, as passed.
        clipped_decisions: (N,) int64, the clipped network's decisions.
        clipped_margins: (N,) float64 in logits, margins of the original's `decisions` under the clipped network.
        margin_gaps: (N,) float64 in logits, `original_margins` minus `clipped_margins`; larger is more suspicious.

    Example:
        >>> read = Readings(np.array([[5.0, 2.0]]), np.array([[3.0, 4.0]]))
        >>> read.decisions.tolist(), read.clipped_decisions.tolist(), read.margin_gaps.tolist()
        ([0], [1], [4.0])
    """

    __slots__ = ("clipped", "clipped_decisions", "clipped_margins", "margin_gaps")

    def __init__(self, original: Logits, clipped: Logits, activations: Logits | None = None) -> None:
        super().__init__(original, activations)
        self.clipped = clipped
        self.clipped_decisions: IntArray = clipped.argmax(axis=1)
        self.clipped_margins = margin(clipped, self.decisions)
        self.margin_gaps: FloatArray = self.original_margins - self.clipped_margins

    def rows(self, rows: npt.NDArray[np.intp] | BoolArray) -> "Readings":
        """Return the readings of some rows.

        Args:
            rows: indices of the rows, or a mask (N,).
        """
        return Readings(self.original[rows], self.clipped[rows], self.activations[rows])


def margin_gap(original: Logits, clipped: Logits) -> FloatArray:
    """Return how much margin the original network's decision loses when the network is clipped.

    Args:
        original: (N, K) logits of the original network.
        clipped: (N, K) logits of the clipped network on the same inputs.

    Returns:
        (N,) float64 in logits, the margin before clipping minus the margin after clipping; larger is more suspicious.

    Example:
        >>> margin_gap(np.array([[5.0, 2.0]]), np.array([[3.0, 4.0]])).tolist()
        [4.0]
    """
    return Readings(original, clipped).margin_gaps


def exclude_class(logits: Logits, labels: IntArray) -> Logits:
    """Return logits in which one class of each row is ranked last.

    The logit of that class becomes 1 less than the lowest other logit of the row.

    Args:
        logits: (N, K) floating point, K >= 2.
        labels: (N,) int64, the class to rank last in each row.

    Returns:
        A copy, (N, K) of the same dtype. The arg max of each row is the best class other than the class in `labels`.

    Example:
        >>> exclude_class(np.array([[5.0, 2.0, 1.0]]), np.array([0])).tolist()
        [[0.0, 2.0, 1.0]]
    """
    rows = np.arange(len(logits))
    result = logits.copy()
    result[rows, labels] = np.inf
    lowest = result.min(axis=1)
    # If logits are so large that subtracting 1 changes nothing, the next smaller floating-point number is used.
    result[rows, labels] = np.minimum(lowest - 1, np.nextafter(lowest, -np.inf, dtype=logits.dtype))
    return result
