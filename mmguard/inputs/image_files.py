"""Decode image files and convert them to inputs of a model, in the same way for calibration, scanning and serving.

Images are always decoded by Pillow, without its `draft` mode, because pixels from different decoders differ by
1 to 3 grey levels, which is enough to shift the null distribution. Only the first frame of a file is used. EXIF
orientation is not applied, and transparency is dropped.
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
from mmguard.files.listing import Entry, is_litter
from mmguard.files.opening import open_file
from mmguard.inputs.batch_checks import shape_fits
from mmguard.inputs.preprocessing import prepare
from mmguard.inputs.spec import InputSpec, Preprocessing
from mmguard.text.sanitize import sanitize, shown

RUNS_PROGRAMS = frozenset({"EPS"})
"""Formats that Pillow decodes with an external program, which must not be run on untrusted files."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """The result of reading one file: an input, an error, or the reason why the file was skipped.

    Attributes:
        path: the file.
        x: the input, an array of the model's dtype and of shape (C, H, W), or (H, W, C) if the layout is NHWC; None if
            the file was not decoded.
        error: the error that explains why the file cannot be used as an input; None if there was no error.
        passed_over: why the file was skipped; empty if it was not skipped.
        more_frames: whether the file contains more than one frame. All frames after the first are ignored.
    """

    path: Path
    x: Array | None = None
    error: InputError | None = None
    passed_over: str = ""
    more_frames: bool = False


@cache
def formats() -> tuple[str, ...]:
    """Return the image formats that mmguard decodes, by Pillow's names, such as `PNG`."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - RUNS_PROGRAMS))


def is_named_as_image(path: Path) -> bool:
    """Return whether a file has the suffix of an image format that Pillow supports.

    Args:
        path: a path, which need not exist.

    Returns:
        Whether the suffix, in upper or lower case, belongs to an image format that Pillow supports.

    Example:
        >>> is_named_as_image(Path("cat.JPG")), is_named_as_image(Path("cat.csv"))
        (True, False)
    """
    return path.suffix.lower() in Image.registered_extensions()


def read_image(path: Path, preprocessing: Preprocessing, dtype: str = "float32") -> Array:
    """Decode and preprocess the first frame of an image file.

    Args:
        path: the file.
        preprocessing: how to convert the image to an input. If `dtype` is uint8, the preprocessing must not scale the
            pixels.
        dtype: name of the input's NumPy dtype.

    Returns:
        The input, an array of the given dtype and of shape (C, H, W), or (H, W, C) if the layout is NHWC.

    Raises:
        UnreadableImageError: The file is not an image, is truncated, has more than 8 bits per channel, or would
            have too many pixels after resizing.
    """
    return _decode(path, preprocessing, dtype)[0]


def _decode(path: Path, preprocessing: Preprocessing, dtype: str) -> tuple[Array, bool]:
    """Return the input, and whether the file contains more than one frame."""
    try:
        with warnings.catch_warnings(), open_file(path) as file:
            warnings.simplefilter("ignore")  # Pillow warns about damage that it repairs
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=formats()) as image:
                deep, mode = _is_deep(image), image.mode
                x = prepare(image, preprocessing).astype(dtype, copy=False)
                more_frames = _has_more_frames(image)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{shown(path)}: not a readable image: Pillow does not recognise its format"
        ) from error
    except Exception as error:  # decoders raise exceptions of any type
        reason = sanitize(str(error)) or type(error).__name__
        raise UnreadableImageError(f"{shown(path)}: not a readable image: {reason}") from error
    if deep:
        raise UnreadableImageError(
            f"{shown(path)}: expected 8 bits per channel, but this image (Pillow mode {mode}) has more; "
            "provide the inputs as .npz"
        )
    return x, more_frames


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # an unreadable second frame is still a second frame
        return True


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Return whether a channel has more than 8 bits. Pillow drops the lower 8 bits of 16-bit RGB without a warning."""
    # Raw modes with 16 bits per channel look like RGB;16B, but BGR;16 means 16 bits per pixel. PPM files have no raw
    # mode for 16 bits per channel, but their headers contain the largest possible value.
    return image.mode.startswith(("I", "F")) or any(
        re.search(r"(?<!BGR);16", str(tile.args))
        or tile.codec_name == "SGI16"
        or (tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple) and tile.args[-1] > 255)
        for tile in image.tile
    )


def read_images(entries: Iterable[Entry], spec: InputSpec) -> Iterator[Picture]:
    """Read files as inputs of a model, one at a time and in order.

    A file that is not an image is skipped if it has the name of an operating-system file, such as `Thumbs.db`.

    Args:
        entries: the entries of a folder.
        spec: description of the model's input, including the preprocessing.

    Yields:
        The result for each entry, in the order of the entries.

    Raises:
        InputError: `spec` contains no preprocessing, because the bundle was not calibrated on images.
    """
    if spec.preprocessing is None:
        raise InputError(
            "this bundle was not calibrated on images, so mmguard cannot turn an image file into an input; calibrate "
            "on image files, or provide the inputs as .npy, .npz or .csv"
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
            return Picture(path, passed_over="not an image, and has the name of an operating-system file")
        return Picture(path, error=error)
    return Picture(path, x, more_frames=more_frames)


def check_image_shape(path: Path, image: npt.NDArray[Any], spec: InputSpec) -> None:
    """Check that a preprocessed image has the shape of the model's input.

    Args:
        path: the image's file, for the message.
        image: the preprocessed image, without a batch axis.
        spec: description of the model's input.

    Raises:
        InputError: The shapes differ; the message suggests values for `--size` and `--crop`.
    """
    expected = spec.shape[1:]
    if not shape_fits(image.shape, expected):
        got = f"{shown(path)}: expected shape {expected} after preprocessing, got {image.shape}"
        if len(expected) != 3:
            raise InputError(f"{got}; this model does not take images, so provide the inputs as .npy or .npz")
        height, width = expected[1:] if spec.preprocessing and spec.preprocessing.layout == "NCHW" else expected[:2]
        raise InputError(
            f"{got}; calibrate with --size {height}x{width} to resize the images or with --crop {height}x{width} to "
            "crop them, or check --layout"
        )
