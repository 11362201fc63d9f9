"""Values that pass between the rooms. NumPy only, all frozen."""

import math
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

ABSTAIN = -1
"""The label of an input for which the policy gives no answer."""


class Reason(StrEnum):
    """Why an input was flagged, or that it was not tested; the flags are values of the counter's `reason` label."""

    NONE = "none"
    UNTESTED = "untested"
    DISAGREEMENT = "disagreement"
    CONFIDENCE = "confidence"
    BOTH = "both"


@dataclass(frozen=True)
class ClipSite:
    """One activation of the network, clipped per channel.

    Attributes:
        value: ONNX name of the activation's output.
        operator: ONNX operator that makes it, such as `Relu`; where several nodes do, that of the function which they
            compute together.
        axis: of its channels: -1 where that is the last, else counted from 0.
        channels: length C of its bound.
    """

    value: str
    operator: str
    axis: int
    channels: int


@dataclass(frozen=True)
class SiteClipping:
    """What the bounds of one clip site do to the clean set D.

    Attributes:
        value: ONNX name of the activation's output.
        values: share of its values over D that lie above their bound. inputs: share of D with at least one such value.
        median_height: median over its channels of the bound, as a share of the channel's range over D: 1 is the largest
            value, 0 the smallest. None where no channel varies.
    """

    value: str
    values: float
    inputs: float
    median_height: float | None


@dataclass(frozen=True, repr=False)
class Decision:
    """What the guard says of a batch of N inputs.

    Attributes:
        labels: (N,) int64, what the policy answers; -1 where it abstains.
        original_labels, clipped_labels: (N,) int64, the two networks' own decisions.
        flagged: (N,) bool, an input that carries a trigger, by the test.
        corrected: (N,) bool, flagged, and the label was changed to another class.
        reasons: (N,) str, values of `Reason`.
        p_values: (N,) float64 in [0, 1]; small is suspicious. NaN where the test could not run.
        margin_gaps: (N,) float64 in logits; large is suspicious. NaN where the test could not run.
    """

    labels: IntArray
    original_labels: IntArray
    clipped_labels: IntArray
    flagged: BoolArray
    corrected: BoolArray
    reasons: npt.NDArray[np.str_]
    p_values: FloatArray
    margin_gaps: FloatArray

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        untested = int((self.reasons == Reason.UNTESTED).sum())
        return f"Decision({len(self)} inputs, {int(self.flagged.sum())} flagged, {untested} untested)"

    def to_dict(self) -> dict[str, list[Any]]:
        """The decision in plain Python, which `json.dumps` takes: by attribute, a list with one entry for each input.

        Labels are integers (-1 where the policy abstains), marks are booleans, reasons are strings, and p-values and
        margin gaps are floats, or None where they are NaN.
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(array: npt.NDArray[Any]) -> list[Any]:
    """A list of Python's own types; numbers that JSON does not have are None."""
    values: list[Any] = array.tolist()
    return [value if math.isfinite(value) else None for value in values] if array.dtype.kind == "f" else values


@dataclass(frozen=True)
class Calibration:
    """What calibration learned: the bounds, and what they do to the clean set D.

    Attributes:
        bounds: by value name, float32, one number a channel, broadcastable against the value.
        original_logits, clipped_logits: (|D|, K) float32 on D, in the order of D.
        held_out_logits: (|D|, K) float32, clipped logits of each input by bounds that were learned without it; where D
            was not folded, by these bounds.
        rounds: rounds run. converged: whether they ended because the objective no longer changed.
    """

    bounds: dict[str, npt.NDArray[np.float32]]
    original_logits: npt.NDArray[np.float32]
    clipped_logits: npt.NDArray[np.float32]
    held_out_logits: npt.NDArray[np.float32]
    rounds: int
    converged: bool
