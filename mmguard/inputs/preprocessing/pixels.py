"""An image's pixels to an input of the model, and the box that all such inputs lie in.

The order is that of the Pillow pipelines of Hugging Face's transformers, torchvision and timm, and so are the pixels:
bit for bit after resizing and cropping, and after scaling and normalising too, which are in float64 and in float32 as
theirs are.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmguard.inputs.spec import Preprocessing

MAX_PIXELS = 2**27
"""Pixels of a resized image, at most: one that is one pixel wide and very long would else grow without end."""

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def prepare(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Prepare one image: all that its preprocessing says.

    Returns:
        float32 (C, H, W), or (H, W, C) where the layout is NHWC.

    Raises:
        ValueError: the resized image would be of more than 2**27 pixels.
    """
    pixels = _crop(_resize(image.convert(preprocessing.mode), preprocessing), preprocessing)
    return normalise(np.asarray(pixels), preprocessing)


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    width, height = _target(image, preprocessing)
    if (width, height) == image.size:
        return image
    if width * height > MAX_PIXELS:
        raise ValueError(f"its {image.width} x {image.height} pixels would be resized to {width} x {height}")
    return image.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])


def _target(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """(width, height) to resize to."""
    if preprocessing.size is not None:
        return preprocessing.size[::-1]
    if preprocessing.shortest_edge is None:
        return image.size
    # This division, and no other: by another the longer edge can differ by a pixel from the other libraries'.
    longer = int(preprocessing.shortest_edge * max(image.size) / min(image.size))
    both = preprocessing.shortest_edge, longer
    return both if image.width <= image.height else both[::-1]


def _crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    if preprocessing.crop is None:
        return image
    height, width = preprocessing.crop
    left = _crop_start(image.width, width, preprocessing.crop_rounding)
    top = _crop_start(image.height, height, preprocessing.crop_rounding)
    # Beyond the image Pillow gives zeros, as the other libraries do.
    return image.crop((left, top, left + width, top + height))


def _crop_start(length: int, crop: int, rounding: str) -> int:
    """Where the middle begins; negative where the image is smaller than the crop."""
    if rounding == "floor":
        return (length - crop) // 2
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def normalise(pixels: Pixels, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Order channels, scale, centre and lay out pixels.

    Args:
        pixels: (H, W) or (H, W, C), 0 to 255; three channels are red, green and blue.

    Returns:
        float32 (C, H, W), or (H, W, C) where the layout is NHWC.
    """
    image = pixels.reshape(*pixels.shape[:2], -1)
    if preprocessing.channel_order == "BGR":
        image = image[..., ::-1]
    scaled = (image.astype(np.float64) * preprocessing.scale).astype(np.float32)
    result = (scaled - np.array(preprocessing.mean, np.float32)) / np.array(preprocessing.std, np.float32)
    return np.ascontiguousarray(result if preprocessing.layout == "NHWC" else result.transpose(2, 0, 1))


def pixel_box(preprocessing: Preprocessing) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The box that every image lies in, in the model's own input space.

    Returns:
        low, high: float32 (C, 1, 1), or (1, 1, C) where the layout is NHWC.
    """
    shape = (1, 1, len(preprocessing.mode))
    low, high = (normalise(np.full(shape, end, np.float32), preprocessing) for end in (0, 255))
    return low, high
