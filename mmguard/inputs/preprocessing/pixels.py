"""Convert images to inputs of the model, and compute bounds on the values of these inputs.

The Pillow pipelines of Hugging Face's transformers, torchvision and timm produce bit-for-bit identical results. This
applies to the pixels after resizing and cropping, and to the inputs after scaling (in float64) and normalising (in
float32).
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmguard.inputs.spec import Preprocessing

MAX_PIXELS = 2**27
"""Maximum number of pixels of a resized image. Resizing a very long and thin image could otherwise exhaust memory."""

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def prepare(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Convert one image to an input of the model.

    Args:
        image: the decoded image, of any mode and size.
        preprocessing: how to convert the image.

    Returns:
        The input, float32 (C, H, W), or (H, W, C) if the layout is NHWC.

    Raises:
        ValueError: the resized image would have more than 2**27 pixels.
    """
    pixels = _crop(_resize(image.convert(preprocessing.mode), preprocessing), preprocessing)
    return normalise(np.asarray(pixels), preprocessing)


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    width, height = _target(image, preprocessing)
    if (width, height) == image.size:
        return image
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"the image of {image.width} x {image.height} pixels would be resized to {width} x {height}, but at most "
            f"{MAX_PIXELS} pixels are allowed; crop the image"
        )
    return image.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])


def _target(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (width, height) to resize to."""
    if preprocessing.size is not None:
        return preprocessing.size[::-1]
    if preprocessing.shortest_edge is None:
        return image.size
    # Torchvision, transformers and timm multiply before they divide; in the opposite order, the result can differ by
    # one pixel.
    longer = int(preprocessing.shortest_edge * max(image.size) / min(image.size))
    both = preprocessing.shortest_edge, longer
    return both if image.width <= image.height else both[::-1]


def _crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    if preprocessing.crop is None:
        return image
    height, width = preprocessing.crop
    left = _crop_start(image.width, width, preprocessing.crop_rounding)
    top = _crop_start(image.height, height, preprocessing.crop_rounding)
    # Beyond the edges of the image, Pillow fills with zeros, like torchvision, transformers and timm.
    return image.crop((left, top, left + width, top + height))


def _crop_start(length: int, crop: int, rounding: str) -> int:
    """Return the index of the first pixel of the centred crop; negative if the image is smaller than the crop."""
    if rounding == "floor":
        return (length - crop) // 2
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def normalise(pixels: Pixels, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Put the channels in the model's order, scale and normalise the pixels, and arrange the axes.

    Args:
        pixels: (H, W) or (H, W, C), with values from 0 to 255; if C is 3, the channels are red, green and blue.
        preprocessing: channel order, scale, mean, std and layout.

    Returns:
        The input, float32 (C, H, W), or (H, W, C) if the layout is NHWC.

    Example:
        >>> normalise(np.full((1, 1, 1), 255, np.uint8), Preprocessing(mode="L", mean=(0.5,), std=(0.5,)))
        array([[[1.]]], dtype=float32)
    """
    image = pixels.reshape(*pixels.shape[:2], -1)
    if preprocessing.channel_order == "BGR":
        image = image[..., ::-1]
    scaled = (image.astype(np.float64) * preprocessing.scale).astype(np.float32)
    result = (scaled - np.array(preprocessing.mean, np.float32)) / np.array(preprocessing.std, np.float32)
    return np.ascontiguousarray(result if preprocessing.layout == "NHWC" else result.transpose(2, 0, 1))


def pixel_box(preprocessing: Preprocessing) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compute bounds on the values of all inputs that the preprocessing can produce.

    Args:
        preprocessing: how to convert images to inputs.

    Returns:
        The lower and the upper bound, float32 (C, 1, 1), or (1, 1, C) if the layout is NHWC.
    """
    shape = (1, 1, len(preprocessing.mode))
    low, high = (normalise(np.full(shape, end, np.float32), preprocessing) for end in (0, 255))
    return low, high
