"""Describe the input of a model, and the preprocessing that turns an image into an input."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmguard.errors import OptionError

PREPROCESSING_CHOICES = {
    "mode": ("RGB", "L"),
    "layout": ("NCHW", "NHWC", "auto"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"),
    "crop_rounding": ("even", "floor"),
    "channel_order": ("RGB", "BGR"),
}
"""The allowed values of each field of `Preprocessing` that has a fixed set of values."""


@dataclass(frozen=True)
class Preprocessing:
    """Steps that turn an image into an input: convert, resize, crop, order channels, scale, normalise and order axes.

    Attributes:
        mode: Pillow mode that images are converted to, `L` (one channel) or `RGB` (three).
        size: (height, width) in pixels to which images are resized, ignoring the aspect ratio. If None,
            `shortest_edge` applies; if `shortest_edge` is also None, images are not resized.
        scale: number by which pixels from 0 to 255 are multiplied; 1/255 by default.
        mean: numbers to subtract from the scaled pixels, one per channel in the model's order, or one number for all
            channels.
        std: numbers by which to divide the pixels after subtracting the mean, one per channel or one for all channels:
            input = (pixels * scale - mean) / std.
        layout: order of the axes, `NCHW` or `NHWC`. `auto` is replaced by the correct order once the shape of the
            model's input is known.
        shortest_edge: length in pixels to which the shorter edge is resized, keeping the aspect ratio; the length of
            the longer edge is rounded down.
        interpolation: name of Pillow's resampling filter, in lower case. Pillow's antialiasing is used.
        crop: (height, width) in pixels to cut from the centre after resizing; smaller images are padded with black.
        crop_rounding: how to place the crop if an odd number of pixels is cut off. Half of this number is rounded
            down (`floor`, as in Hugging Face) or to the nearest even number (`even`, as in torchvision and timm).
        channel_order: the model's channel order, `RGB` or `BGR`; it has no effect on images with one channel.

    Raises:
        OptionError: A field has an invalid value, or two fields contradict each other.
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
            raise OptionError("size and shortest_edge are both set; set only one of them")
        if not {len(self.mean), len(self.std)} <= {1, 3}:
            raise OptionError(
                f"mean and std must each be one number or three numbers, got {len(self.mean)} for mean and "
                f"{len(self.std)} for std"
            )
        if not all(map(math.isfinite, self.mean)):
            raise OptionError(f"mean must be finite, got {self.mean}")
        if not all(math.isfinite(value) and value > 0 for value in (*self.std, self.scale)):
            raise OptionError(f"std and scale must be positive and finite, got {self.std} and {self.scale}")


def _is_length(value: object) -> bool:
    return type(value) is int and value > 0


@dataclass(frozen=True)
class InputSpec:
    """The input of a model, and the box that contains all feasible inputs.

    Attributes:
        name: ONNX name of the input.
        shape: shape of a batch, with the batch axis first; None for a dynamic axis.
        low: lower bound of feasible inputs, float32, broadcastable to the shape of one input without a batch axis.
        high: upper bound of feasible inputs, float32, of the same shape as `low`.
        preprocessing: how to convert image files to inputs; None if the calibration set did not consist of images.
        dtype: the dtype that the model takes, one of `mmguard.runtime.dtypes.INPUT_DTYPES`.
        columns: names of a table's feature columns, in the model's order; None if the calibration set was not a table.
    """

    name: str
    shape: tuple[int | None, ...]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    preprocessing: Preprocessing | None = None
    dtype: str = "float32"
    columns: tuple[str, ...] | None = None
