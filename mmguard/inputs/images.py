"""Image files as inputs of a model: one decoder for calibration, scanning and serving.

Images are decoded by Pillow without `draft`: another decoder's pixels differ by 1 to 3 grey levels, which is enough
to move the null distribution. Of several frames the first is the image. An image's orientation in EXIF is not
applied, and transparency is dropped.
"""

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from mmguard.errors import InputError, UnreadableImageError
from mmguard.files.listing import Entry, is_litter, open_file, shown
from mmguard.inputs.checks import shape_fits
from mmguard.inputs.preprocessing import prepare
from mmguard.inputs.spec import InputSpec, Preprocessing
from mmguard.text.sanitize import visible

RUNS_PROGRAMS = frozenset({"EPS"})
"""Formats that Pillow decodes by another program, which is no place for a file that others made."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """What became of one file: one of its input, its error and `passed_over`.

    Attributes:
        x: (C, H, W), or (H, W, C) where the layout is NHWC, of the model's dtype.
        error: why there is none.
        passed_over: why it need not be an input.
        more_frames: whether the file holds more frames than the first, which is the input.
    """

    path: Path
    x: Array | None = None
    error: InputError | None = None
    passed_over: str = ""
    more_frames: bool = False


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are decoded, whatever a file is called."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - RUNS_PROGRAMS))


def is_named_as_image(path: Path) -> bool:
    """Whether a file has a suffix of a format that Pillow knows."""
    return path.suffix.lower() in Image.registered_extensions()


def read_image(path: Path, preprocessing: Preprocessing, dtype: str = "float32") -> Array:
    """Decode and preprocess one image: the first frame, where it has several.

    Args:
        dtype: NumPy's name of the dtype to give. For uint8 the preprocessing must leave pixels as they are.

    Returns:
        (C, H, W), or (H, W, C) where the layout is NHWC.

    Raises:
        UnreadableImageError: not an image, truncated, of more than 8 bits a channel, or too long and thin to resize.
    """
    return _decode(path, preprocessing, dtype)[0]


def _decode(path: Path, preprocessing: Preprocessing, dtype: str) -> tuple[Array, bool]:
    """The input, and whether the file holds more frames."""
    try:
        with warnings.catch_warnings(), open_file(path) as file:
            warnings.simplefilter("ignore")  # Pillow's own, of what it mends
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=formats()) as image:
                deep, mode = _is_deep(image), image.mode
                x = prepare(image, preprocessing).astype(dtype, copy=False)
                more_frames = _has_more_frames(image)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"{shown(path)}: not a readable image: no format that Pillow knows") from error
    except Exception as error:  # decoders raise what they like
        reason = visible(str(error)) or type(error).__name__
        raise UnreadableImageError(f"{shown(path)}: not a readable image: {reason}") from error
    if deep:
        raise UnreadableImageError(
            f"{shown(path)}: {mode} pixels have more than 8 bits a channel; give the inputs as .npz instead"
        )
    return x, more_frames


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a second frame that cannot be read is one
        return True


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a channel has more than 8 bits. Pillow would drop the lower ones of three 16-bit channels in silence."""
    # The raw mode is such as RGB;16B, where BGR;16 are 16 bits a pixel; PPM gives its largest value instead.
    return image.mode.startswith(("I", "F")) or any(
        re.search(r"(?<!BGR);16", str(tile.args))
        or tile.codec_name == "SGI16"
        or (tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple) and tile.args[-1] > 255)
        for tile in image.tile
    )


def read_images(entries: Iterable[Entry], spec: InputSpec) -> Iterator[Picture]:
    """Read files as inputs of a model, each once, in their order.

    A file that is no image is passed over where it is named as an operating system names what it leaves in folders.

    Yields:
        One picture an entry.

    Raises:
        InputError: the bundle has no preprocessing.
    """
    if spec.preprocessing is None:
        raise InputError(
            "the bundle was not calibrated on images, so it does not say how an image file becomes an input; "
            "calibrate it on image files, or give the inputs as .npy, .npz or .csv"
        )
    for entry in entries:
        yield _picture(entry, spec, spec.preprocessing)


def _picture(entry: Entry, spec: InputSpec, preprocessing: Preprocessing) -> Picture:
    path = entry.path
    if entry.passed_over:
        return Picture(path, passed_over=entry.passed_over)
    if entry.problem:
        return Picture(path, error=UnreadableImageError(f"{shown(path)}: {entry.problem}"))
    try:
        x, more_frames = _decode(path, preprocessing, spec.dtype)
        check_image_shape(path, x, spec)
    except InputError as error:
        if is_litter(path) and isinstance(error.__cause__, UnidentifiedImageError):
            return Picture(path, passed_over="no image, and named as a file of the operating system")
        return Picture(path, error=error)
    return Picture(path, x, more_frames=more_frames)


def check_image_shape(path: Path, image: npt.NDArray[Any], spec: InputSpec) -> None:
    """Refuse an image that is not of the model's size.

    Raises:
        InputError: the shape is not the spec's; the message says which `--size` would resize it.
    """
    expected = spec.shape[1:]
    if not shape_fits(image.shape, expected):
        came = f"{shown(path)} gives an input of shape {image.shape}, the model takes {expected}"
        if len(expected) != 3:
            raise InputError(f"{came}, which no image file has; give the inputs as .npy or .npz")
        height, width = expected[1:] if spec.preprocessing and spec.preprocessing.layout == "NCHW" else expected[:2]
        raise InputError(
            f"{came}; calibrate with --size {height}x{width} to have images resized, with --crop {height}x{width} to "
            "have their middle cut out, or check --layout"
        )
