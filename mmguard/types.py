"""Values that pass between the rooms. NumPy only, all frozen."""

import math
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import OptionError

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


INPUT_DTYPES = ("float32", "float16", "float64", "uint8")
"""NumPy's names of the dtypes that a guarded model may take."""

PREPROCESSING_CHOICES = {
    "mode": ("RGB", "L"),
    "layout": ("NCHW", "NHWC", "auto"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"),
    "crop_rounding": ("even", "floor"),
    "channel_order": ("RGB", "BGR"),
}
"""Values of the fields of `Preprocessing` that are names."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes one input of the model: convert, resize, crop, order channels, scale, centre, lay out.

    Attributes:
        mode: Pillow mode that images are converted to, `L` (one channel) or `RGB` (three).
        size: (height, width) to resize to, whatever the aspect; None where `shortest_edge` says it, or images stay.
        scale: factor on pixels of 0 to 255, 1/255 by default.
        mean, std: per channel in the model's order, in scaled pixels: input = (pixels * scale - mean) / std. One number
            stands for all channels.
        layout: `NCHW`, `NHWC`, or `auto` until the shape of a model's input has decided between these.
        shortest_edge: length in pixels to resize the shorter edge to; the aspect is kept, the longer edge rounded down.
        interpolation: Pillow's filter, by its name in small letters; with Pillow's own antialiasing.
        crop: (height, width) cut from the middle after resizing; a smaller image is filled up with black.
        crop_rounding: where the middle is where an odd number of pixels is left over: at half of it rounded down,
            `floor`, as Hugging Face has it, or to the nearest even number, `even`, as torchvision and timm have it.
        channel_order: `RGB` or `BGR`, of the model; says nothing of one channel.

    Raises:
        OptionError: on construction, a field that no image could be prepared by.
    """

    mode: str = "RGB"
    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    shortest_edge: int | None = None
    interpolation: str = "bilinear"
    crop: tuple[int, int] | None = None
    crop_rounding: str = "even"
    channel_order: str = "RGB"

    def __post_init__(self) -> None:
        for name, choices in PREPROCESSING_CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name in ("size", "crop"):
            if (value := getattr(self, name)) is not None and not (len(value) == 2 and all(map(_is_length, value))):
                raise OptionError(f"{name} must be a height and a width in pixels, got {value}")
        if self.shortest_edge is not None and not _is_length(self.shortest_edge):
            raise OptionError(f"shortest_edge must be a positive number of pixels, got {self.shortest_edge}")
        if self.size is not None and self.shortest_edge is not None:
            raise OptionError("images are resized to a size or to a shortest edge, not to both")
        if not {len(self.mean), len(self.std)} <= {1, 3}:
            raise OptionError(f"mean and std take one number or three, got {len(self.mean)} and {len(self.std)}")
        if not all(map(math.isfinite, self.mean)):
            raise OptionError(f"mean must be finite, got {self.mean}")
        if not all(math.isfinite(value) and value > 0 for value in (*self.std, self.scale)):
            raise OptionError(f"std and scale must be positive, got {self.std} and {self.scale}")


def _is_length(value: object) -> bool:
    return type(value) is int and value > 0


@dataclass(frozen=True)
class InputSpec:
    """The model's input and the box that bounds it.

    Attributes:
        name: ONNX name of the input.
        shape: shape of one batch; None where the axis is dynamic. The first axis is the batch.
        low, high: bounds of a feasible input, float32, broadcastable against one input (no batch axis).
        preprocessing: how image files are read; None where D came as arrays.
        dtype: that the model takes, one of `INPUT_DTYPES`.
        columns: names of a table's feature columns, in order; None where D did not come as a table.
    """

    name: str
    shape: tuple[int | None, ...]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    preprocessing: Preprocessing | None = None
    dtype: str = "float32"
    columns: tuple[str, ...] | None = None


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
