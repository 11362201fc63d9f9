"""Options of a command that describe the preprocessing of images."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing.files import read_preprocessing
from mmguard.inputs.spec import Preprocessing

logger = logging.getLogger(__name__)

Layout = Literal["NCHW", "NHWC"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
ChannelOrder = Literal["RGB", "BGR"]


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """Options for converting image files to inputs of the model.

    Attributes:
        mean: Mean to subtract from the scaled pixels: one number, or one per channel in the model's order.
        std: Standard deviation by which to divide the pixels after subtracting the mean: one number, or one per
            channel.
        scale: Factor by which to multiply pixels from 0 to 255. 1/255 by default, or 1 for a model that takes uint8.
        layout: Layout of the model's input. By default, mmguard infers the layout from the input's shape.
        size: Resize images before any crop. 256x192 resizes to this height and width, ignoring the aspect ratio. 256
            resizes the shorter edge to 256 if there is a crop; otherwise, it resizes the image to 256x256.
        crop: Crop the centre of the resized image to this height and width, such as 224 or 224x192.
        interpolation: Pillow filter for resizing images. bilinear by default.
        channel_order: Order of the model's colour channels. RGB by default.
        preprocess: Read the preprocessing from this file: Hugging Face's preprocessor_config.json or timm's
            config.json. The other preprocessing options override this file.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    layout: Layout | None = None
    size: str | None = None
    crop: str | None = None
    interpolation: Interpolation | None = None
    channel_order: ChannelOrder | None = None
    preprocess: Path | None = None

    def preprocessing(self) -> Preprocessing | None:
        """Combine the options with the preprocessing from the file. The options override the file.

        Returns:
            The preprocessing, or None if no option is given.

        Raises:
            OptionError: an option is malformed or out of range, or the file cannot be used.

        Example:
            >>> PreprocessingOptions(size="256", crop="224").preprocessing().shortest_edge
            256
        """
        single = ("scale", "layout", "interpolation", "channel_order")
        given: dict[str, Any] = {name: value for name in single if (value := getattr(self, name)) is not None}
        given |= {name: tuple(numbers) for name in ("mean", "std") if (numbers := getattr(self, name))}
        if self.preprocess is None and not given and self.size is None and self.crop is None:
            return None
        base = Preprocessing(layout="auto") if self.preprocess is None else read_preprocessing(self.preprocess)
        if self.crop is not None:
            given["crop"] = _parse_lengths("--crop", self.crop)
        if self.size is not None:
            given |= _resizing(self.size, cropped="crop" in given or base.crop is not None)
        preprocessing = replace(base, **given)
        _warn_of_frame(preprocessing)
        return preprocessing


def _resizing(size: str, cropped: bool) -> dict[str, Any]:
    height, width = _parse_lengths("--size", size)
    if cropped and size.isdecimal():
        return {"size": None, "shortest_edge": height}
    return {"size": (height, width), "shortest_edge": None}


def _parse_lengths(option: str, text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and len(part) < 6 and int(part) > 0 for part in parts):
        raise OptionError(f"{option} takes one length or HEIGHTxWIDTH, such as 224 or 224x192, got {text!r}")
    return int(parts[0]), int(parts[-1])


def _warn_of_frame(preprocessing: Preprocessing) -> None:
    crop, size = preprocessing.crop, preprocessing.size
    if size is None and preprocessing.shortest_edge is not None:
        size = preprocessing.shortest_edge, preprocessing.shortest_edge
    if crop and size and (crop[0] > size[0] or crop[1] > size[1]):
        logger.warning(
            "warning: the crop of %d x %d is larger than the resized images, so mmguard pads them with black", *crop
        )
