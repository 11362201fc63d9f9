"""Image files as inputs of a model: one decoder for calibration, scanning and serving.

Images are decoded by Pillow without `draft`: another decoder's pixels differ by 1 to 3 grey levels, which is enough
to move the null distribution.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from mmguard.errors import InputError, OptionError, UnreadableImageError
from mmguard.inputs import empty_batch, shape_fits
from mmguard.types import InputSpec, Preprocessing

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def preprocessing_from(
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float | None = None,
    layout: str | None = None,
    size: str | None = None,
) -> Preprocessing | None:
    """Preprocessing from what a user gave; None where nothing was given.

    Args:
        mean, std: one number, or one a channel. size: `224` or `224x192`, height before width.

    Raises:
        OptionError: numbers that make no preprocessing.
    """
    if all(option is None for option in (mean, std, scale, layout, size)):
        return None
    mean, std = tuple(mean or (0.0,)), tuple(std or (1.0,))
    scale = 1 / 255 if scale is None else scale
    if len(mean) not in (1, 3) or len(std) not in (1, 3):
        raise OptionError(f"--mean and --std take one number or three, got {len(mean)} and {len(std)}")
    if not np.isfinite(mean).all():
        raise OptionError("--mean must be finite")
    if not all(np.isfinite(value) and value > 0 for value in (*std, scale)):
        raise OptionError("--std and --scale must be positive")
    return Preprocessing(size=_parse_size(size), scale=scale, mean=mean, std=std, layout=layout or "NCHW")


def _parse_size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    parts = size.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise OptionError(f"--size takes a side or HEIGHTxWIDTH, such as 224 or 224x192, got {size!r}")
    return int(parts[0]), int(parts[-1])


def find_images(folder: Path) -> list[Path]:
    """Image files below a folder by their suffix, sorted by path; hidden files and folders are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_image(path: Path, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Decode and preprocess one image.

    Returns:
        float32 (C, H, W), or (H, W, C) where the layout is NHWC.

    Raises:
        UnreadableImageError: not an image, truncated, or of more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            deep = _is_deep(image)
            pixels = image.convert(preprocessing.mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: not a readable image: {error}") from error
    if deep:
        raise UnreadableImageError(
            f"{path}: {image.mode} pixels have more than 8 bits a channel; give the inputs as .npz instead"
        )
    if preprocessing.size is not None and pixels.size != preprocessing.size[::-1]:
        pixels = pixels.resize(preprocessing.size[::-1], Image.Resampling.BILINEAR)
    return normalise(np.asarray(pixels, dtype=np.float32), preprocessing)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a channel has more than 8 bits. Pillow would drop the lower ones of three 16-bit channels in silence."""
    # The raw mode is such as RGB;16B, where BGR;16 are 16 bits a pixel; PPM gives its largest value instead.
    return image.mode.startswith(("I", "F")) or any(
        re.search(r"(?<!BGR);16", str(tile.args))
        or (tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple) and tile.args[-1] > 255)
        for tile in image.tile
    )


def normalise(pixels: npt.NDArray[np.float32], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Scale, centre and lay out pixels.

    Args:
        pixels: (H, W) or (H, W, C), 0 to 255.

    Returns:
        float32 (C, H, W), or (H, W, C) where the layout is NHWC.
    """
    image = pixels.reshape(*pixels.shape[:2], -1)
    mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
    image = (image * np.float32(preprocessing.scale) - mean) / std
    if preprocessing.layout == "NCHW":
        image = image.transpose(2, 0, 1)
    return np.ascontiguousarray(image, dtype=np.float32)


def pixel_box(preprocessing: Preprocessing) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The box that every image lies in, in the model's own input space.

    Returns:
        low, high: float32 (C, 1, 1), or (1, 1, C) where the layout is NHWC.
    """
    channels = len(preprocessing.mode)
    ends = [
        normalise(np.full((1, 1, channels), value, dtype=np.float32), preprocessing).reshape(-1) for value in (0, 255)
    ]
    shape = (channels, 1, 1) if preprocessing.layout == "NCHW" else (1, 1, channels)
    return np.minimum(*ends).reshape(shape), np.maximum(*ends).reshape(shape)


def image_batches(
    paths: Sequence[Path], spec: InputSpec, batch_size: int
) -> Iterator[tuple[list[Path], npt.NDArray[np.float32], list[UnreadableImageError]]]:
    """Read images in batches.

    Yields:
        The paths that could be read, their inputs (N, C, H, W), and the errors of those that could not.

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
        images: list[npt.NDArray[np.float32]] = []
        errors: list[UnreadableImageError] = []
        for path in paths[start : start + batch_size]:
            try:
                image = read_image(path, spec.preprocessing)
            except UnreadableImageError as error:
                errors.append(error)
                continue
            check_image_shape(path, image, spec)
            if images and image.shape != images[0].shape:
                raise InputError(
                    f"{path} gives an input of shape {image.shape}, {good[0]} one of {images[0].shape}; "
                    "one batch has one size, so resize every image with --size HEIGHTxWIDTH"
                )
            good.append(path)
            images.append(image)
        yield good, np.stack(images) if images else empty_batch(spec), errors


def check_image_shape(path: Path, image: npt.NDArray[np.float32], spec: InputSpec) -> None:
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
        raise InputError(f"{came}; calibrate with --size {height}x{width} to have images resized, or check --layout")
