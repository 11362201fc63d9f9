"""A model's input, and how an image file becomes one."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmguard.errors import OptionError

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
