"""Image files as inputs of a model: one decoder for calibration, scanning and serving.

Images are decoded by Pillow without `draft`: another decoder's pixels differ by 1 to 3 grey levels, which is enough
to move the null distribution. An image's orientation in EXIF is not applied, and transparency is dropped.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from mmguard.errors import InputError, UnreadableImageError
from mmguard.inputs import empty_batch, shape_fits
from mmguard.preprocessing import prepare
from mmguard.types import InputSpec, Preprocessing

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def find_images(folder: Path) -> list[Path]:
    """Image files below a folder by their suffix, sorted by path, also behind links to folders.

    Hidden files and folders are passed over.
    """
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        here = Path(parent)
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(here / name)]
        found += [
            path
            for name in files
            if not name.startswith(".") and (path := here / name).suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        ]
    return sorted(found)


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def read_image(path: Path, preprocessing: Preprocessing, dtype: str = "float32") -> npt.NDArray[Any]:
    """Decode and preprocess one image.

    Args:
        dtype: NumPy's name of the dtype to give. For uint8 the preprocessing must leave pixels as they are.

    Returns:
        (C, H, W), or (H, W, C) where the layout is NHWC.

    Raises:
        UnreadableImageError: not an image, truncated, of more than 8 bits a channel, or too long and thin to resize.
    """
    try:
        with Image.open(path) as image:
            deep = _is_deep(image)
            x = prepare(image, preprocessing)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: not a readable image: {error}") from error
    if deep:
        raise UnreadableImageError(
            f"{path}: {image.mode} pixels have more than 8 bits a channel; give the inputs as .npz instead"
        )
    return x.astype(dtype, copy=False)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a channel has more than 8 bits. Pillow would drop the lower ones of three 16-bit channels in silence."""
    # The raw mode is such as RGB;16B, where BGR;16 are 16 bits a pixel; PPM gives its largest value instead.
    return image.mode.startswith(("I", "F")) or any(
        re.search(r"(?<!BGR);16", str(tile.args))
        or (tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple) and tile.args[-1] > 255)
        for tile in image.tile
    )


def image_batches(
    paths: Sequence[Path], spec: InputSpec, batch_size: int
) -> Iterator[tuple[list[Path], npt.NDArray[Any], list[UnreadableImageError]]]:
    """Read images in batches.

    Yields:
        The paths that could be read, their inputs (N, C, H, W) of the model's dtype, and the errors of those that could
        not.

    Raises:
        InputError: the bundle has no preprocessing, or an image is not of the model's size.
    """
    if spec.preprocessing is None:
        raise InputError(
            "the bundle was calibrated on arrays, so it does not say how an image file becomes an input; "
            "calibrate it on image files, or give the inputs as .npy or .npz"
        )
    for start in range(0, len(paths), batch_size):
        good: list[Path] = []
        images: list[npt.NDArray[Any]] = []
        errors: list[UnreadableImageError] = []
        for path in paths[start : start + batch_size]:
            try:
                image = read_image(path, spec.preprocessing, spec.dtype)
            except UnreadableImageError as error:
                errors.append(error)
                continue
            check_image_shape(path, image, spec)
            if images and image.shape != images[0].shape:
                raise InputError(
                    f"{path} gives an input of shape {image.shape}, {good[0]} one of {images[0].shape}; "
                    "one batch has one size, so resize every image with --size HEIGHTxWIDTH, or cut it out with --crop"
                )
            good.append(path)
            images.append(image)
        yield good, np.stack(images) if images else empty_batch(spec), errors


def check_image_shape(path: Path, image: npt.NDArray[Any], spec: InputSpec) -> None:
    """Refuse an image that is not of the model's size.

    Raises:
        InputError: the shape is not the spec's; the message says which `--size` would resize it.
    """
    expected = spec.shape[1:]
    if not shape_fits(image.shape, expected):
        came = f"{path} gives an input of shape {image.shape}, the model takes {expected}"
        if len(expected) != 3:
            raise InputError(f"{came}, which no image file has; give the inputs as .npy or .npz")
        height, width = expected[1:] if spec.preprocessing and spec.preprocessing.layout == "NCHW" else expected[:2]
        raise InputError(
            f"{came}; calibrate with --size {height}x{width} to have images resized, with --crop {height}x{width} to "
            "have their middle cut out, or check --layout"
        )
