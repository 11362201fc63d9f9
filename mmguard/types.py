"""Frozen dataclasses that the packages of mmguard exchange. They depend only on NumPy."""

import math
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Features = npt.NDArray[np.floating]
"""Features of a site's activations, (N, C): one number per input and channel."""

ABSTAIN = -1
"""Label that means that the policy abstains."""


class Reason(StrEnum):
    """Why an input was flagged, or a note that the input was not flagged or not tested.

    The metric that counts flagged inputs uses the same values in its label `reason`. If several kinds of evidence are
    improbable for a clean input, the reason is the most improbable one.

    Attributes:
        NONE: the input was not flagged.
        UNTESTED: the input was not tested.
        DISAGREEMENT: the networks decide differently, at a level above θ.
        CONFIDENCE: clipping changed the logits too much.
        BOTH: clipping changed the logits too much, and the networks decide differently.
        ACTIVATIONS: the original network's activations are too far from those of clean inputs with the same decision.
        MARGIN: the original network's own margin is too large.
    """

    NONE = "none"
    UNTESTED = "untested"
    DISAGREEMENT = "disagreement"
    CONFIDENCE = "confidence"
    BOTH = "both"
    ACTIVATIONS = "activations"
    MARGIN = "margin"


@dataclass(frozen=True)
class ClipSite:
    """A clip site: an activation of the network with one bound per channel.

    Attributes:
        value: ONNX name of the activation's output.
        operator: ONNX operator that computes the activation, such as `Relu`, or the name of the function that several
            nodes compute together.
        axis: axis of the channels: -1 for the last axis, otherwise counted from 0.
        channels: number of channels C, which is also the number of bounds.
    """

    value: str
    operator: str
    axis: int
    channels: int


@dataclass(frozen=True)
class EvidenceSite:
    """A site at which the original network's activations are compared with those of clean inputs.

    Attributes:
        value: ONNX name of the activation's output.
        axis: axis of the channels: -1 for the last axis, otherwise counted from 0.
        feature: what is computed of each channel: `mean` over all positions, or the signed `root` of that mean.
    """

    value: str
    axis: int
    feature: Literal["mean", "root"]


@dataclass(frozen=True)
class SiteClipping:
    """How the bounds of one clip site affect the calibration set D.

    Attributes:
        value: ONNX name of the activation's output.
        values: share of the activation's values over D that exceed the bound of their channel.
        inputs: share of the inputs in D for which at least one value exceeds the bound of its channel.
        median_height: median of the bounds' heights over the channels. The height of a bound is its position in the
            channel's range over D, from 0 for the smallest value to 1 for the largest. None if every channel is
            constant over D.
    """

    value: str
    values: float
    inputs: float
    median_height: float | None


@dataclass(frozen=True, repr=False)
class Decision:
    """The guard's decision on a batch of N inputs.

    Attributes:
        labels: (N,) int64, the labels that the policy returns; -1 if the policy abstains.
        original_labels: (N,) int64, decisions of the original network.
        clipped_labels: (N,) int64, decisions of the clipped network; -1 for an input on which it did not run: one that
            passed the screen, or was not tested.
        flagged: (N,) bool, whether the test judges an input to be triggered.
        corrected: (N,) bool, whether an input was flagged and its label was changed to a different class.
        reasons: (N,) str, values of `Reason`.
        p_values: (N,) float64 in [0, 1]; smaller is more suspicious. That of the screen for an input that passed the
            screen; NaN for an untested input.
        margin_gaps: (N,) float64, in logits; larger is more suspicious. NaN for an input on which the clipped
            network did not run.
        confidences: (N,) float64 in [0, 1], how sure the clipped network is of a flagged input's corrected label; NaN
            if no label was proposed.
    """

    labels: IntArray
    original_labels: IntArray
    clipped_labels: IntArray
    flagged: BoolArray
    corrected: BoolArray
    reasons: npt.NDArray[np.str_]
    p_values: FloatArray
    margin_gaps: FloatArray
    confidences: FloatArray

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        untested = int((self.reasons == Reason.UNTESTED).sum())
        return f"Decision({len(self)} inputs, {int(self.flagged.sum())} flagged, {untested} untested)"

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the decision in plain Python types, which `json.dumps` accepts.

        Returns:
            For each attribute, a list with one entry per input: integers for labels, booleans for `flagged` and
            `corrected`, strings for reasons, and floats for p-values and margin gaps, with None instead of NaN.
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(array: npt.NDArray[Any]) -> list[Any]:
    """Convert an array to a list of plain Python values, with None for NaN and infinity, which JSON does not allow."""
    values: list[Any] = array.tolist()
    return [value if math.isfinite(value) else None for value in values] if array.dtype.kind == "f" else values


@dataclass(frozen=True)
class Calibration:
    """The result of learning: the bounds, and the logits on the calibration set D with and without clipping.

    Attributes:
        bounds: float32 bounds of each clip site, by the ONNX name of its value. There is one bound per channel, in a
            shape that broadcasts to the value.
        original_logits: (|D|, K) float32, logits of the original network on D.
        clipped_logits: (|D|, K) float32, logits of the clipped network on D.
        held_out_logits: (|D|, K) float32, logits of each input of D, clipped by bounds that were learned without that
            input; the same as `clipped_logits` if there are no folds.
        rounds: number of rounds that were run.
        converged: whether learning stopped because the objective no longer changed.
    """

    bounds: dict[str, npt.NDArray[np.float32]]
    original_logits: npt.NDArray[np.float32]
    clipped_logits: npt.NDArray[np.float32]
    held_out_logits: npt.NDArray[np.float32]
    rounds: int
    converged: bool
