"""Hugging Face's image processors for classifiers: the defaults of each class, and how each class resizes images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmguard.errors import OptionError

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BILINEAR, BICUBIC = 2, 3
WARPED_FROM = 384
"""From this size (in pixels) upwards, ConvNeXT resizes to a square, ignoring the aspect ratio. For smaller sizes,
ConvNeXT keeps the aspect ratio and crops."""

Lengths = Mapping[str, int]
"""Lengths in pixels, with the keys `height` and `width`, or `shortest_edge`."""
Resizing = Callable[[Lengths, float], dict[str, Any]]


def plain(size: Lengths, crop_pct: float) -> dict[str, Any]:
    """Describe resizing to a height and width, ignoring the aspect ratio, or resizing the shortest edge.

    Args:
        size: mapping with the keys `height` and `width`, or `shortest_edge`; lengths in pixels.
        crop_pct: not used.

    Returns:
        The corresponding fields of `Preprocessing`.

    Example:
        >>> plain({"height": 224, "width": 192}, 1.0)
        {'size': (224, 192)}
    """
    if "shortest_edge" in size:
        return {"shortest_edge": size["shortest_edge"]}
    return {"size": (size["height"], size["width"])}


def convnext(size: Lengths, crop_pct: float) -> dict[str, Any]:
    """Describe the resizing of ConvNeXT, which depends on the size.

    If the size is below 384 pixels, the shortest edge is resized to `size / crop_pct`, and the image is cropped to a
    square with sides of length `size`. Otherwise, the image is resized to this square, ignoring the aspect ratio.

    Args:
        size: mapping with the key `shortest_edge`; length in pixels.
        crop_pct: side of the crop divided by the side of the resized image.

    Returns:
        The corresponding fields of `Preprocessing`.

    Raises:
        OptionError: `size` does not contain `shortest_edge`.

    Example:
        >>> convnext({"shortest_edge": 224}, 0.875)
        {'shortest_edge': 256, 'crop': (224, 224)}
    """
    if "shortest_edge" not in size:
        raise OptionError(f"size must be a shortest_edge for this image processor, got {dict(size)}")
    edge = size["shortest_edge"]
    if edge >= WARPED_FROM:
        return {"size": (edge, edge)}
    return {"shortest_edge": int(edge / crop_pct), "crop": (edge, edge)}


def levit(size: Lengths, crop_pct: float) -> dict[str, Any]:
    """Describe resizing the shortest edge to 256/224 times the given length, or resizing to a height and width.

    Args:
        size: mapping with the keys `height` and `width`, or `shortest_edge`; lengths in pixels.
        crop_pct: not used.

    Returns:
        The corresponding fields of `Preprocessing`.
    """
    if "shortest_edge" in size:
        return {"shortest_edge": int((256 / 224) * size["shortest_edge"])}
    return plain(size, crop_pct)


def poolformer(size: Lengths, crop_pct: float) -> dict[str, Any]:
    """Describe resizing to `size / crop_pct`.

    If the height and width are equal, the shortest edge is resized to this length, and the aspect ratio is kept.

    Args:
        size: mapping with the keys `height` and `width`, or `shortest_edge`; lengths in pixels.
        crop_pct: side of the crop divided by the side of the resized image.

    Returns:
        The corresponding fields of `Preprocessing`.
    """
    larger = {edge: int(side / crop_pct) for edge, side in size.items()}
    if size.get("height") == size.get("width"):
        return {"shortest_edge": next(iter(larger.values()))}
    return plain(larger, crop_pct)


@dataclass(frozen=True)
class Processor:
    """Defaults and features of an image processor class.

    Attributes:
        side: default size, in pixels.
        square: whether a size given as one number is the side of a square. If not, it is the length of the shortest
            edge.
        crop: default of `crop_size`, in pixels; None if the class does not crop by default.
        resample: Pillow's number for the default filter.
        mean: default of `image_mean`.
        std: default of `image_std`.
        normalises: whether the class supports `do_normalize`.
        crops: whether the class supports `do_center_crop`.
        own: additional fields that not every class has, with their defaults.
        unsettled: fields whose defaults differ between transformers 4 and 5. A file must contain these fields.
        resizing: function that converts the size and `crop_pct` to fields of `Preprocessing`.
    """

    side: int
    square: bool
    crop: int | None
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalises: bool = True
    crops: bool = True
    own: Mapping[str, object] = field(default_factory=dict)
    unsettled: frozenset[str] = frozenset()
    resizing: Resizing = plain

    @property
    def size(self) -> dict[str, int]:
        """The default size, in the format of a configuration file."""
        return {"height": self.side, "width": self.side} if self.square else {"shortest_edge": self.side}


RESAMPLE = frozenset({"resample"})

PROCESSORS = {
    "BeitImageProcessor": Processor(
        224, True, None, BICUBIC, HALF, HALF, unsettled=frozenset({"size", "do_center_crop"})
    ),
    "BitImageProcessor": Processor(224, False, 224, BICUBIC, CLIP_MEAN, CLIP_STD),
    "CLIPImageProcessor": Processor(224, False, 224, BICUBIC, CLIP_MEAN, CLIP_STD),
    "ConvNextImageProcessor": Processor(
        *(384, False, None, BICUBIC, HALF, HALF),
        crops=False,
        own={"crop_pct": 224 / 256},
        unsettled=RESAMPLE,
        resizing=convnext,
    ),
    "DeiTImageProcessor": Processor(256, True, 224, BICUBIC, HALF, HALF),
    "EfficientNetImageProcessor": Processor(
        *(346, True, None, BICUBIC, HALF, HALF),
        own={"rescale_offset": False, "include_top": True},
        unsettled=RESAMPLE,
    ),
    "LevitImageProcessor": Processor(224, False, 224, BICUBIC, IMAGENET_MEAN, IMAGENET_STD, resizing=levit),
    "MobileNetV1ImageProcessor": Processor(256, False, 224, BILINEAR, HALF, HALF),
    "MobileNetV2ImageProcessor": Processor(256, False, 224, BILINEAR, HALF, HALF),
    "MobileViTImageProcessor": Processor(
        *(224, False, 256, BICUBIC, (0.0,), (1.0,)),
        normalises=False,
        own={"do_flip_channel_order": True},
        unsettled=RESAMPLE,
    ),
    "PoolFormerImageProcessor": Processor(
        224, False, 224, BICUBIC, IMAGENET_MEAN, IMAGENET_STD, own={"crop_pct": 0.9}, resizing=poolformer
    ),
    "PvtImageProcessor": Processor(224, True, None, BICUBIC, IMAGENET_MEAN, IMAGENET_STD, unsettled=RESAMPLE),
    "SegformerImageProcessor": Processor(512, True, None, BILINEAR, IMAGENET_MEAN, IMAGENET_STD, crops=False),
    "SiglipImageProcessor": Processor(224, True, None, BICUBIC, HALF, HALF),
    "ViTImageProcessor": Processor(224, True, None, BILINEAR, HALF, HALF),
}
"""The image processor classes by name. Swin, SwiftFormer and ViT-MSN use ViT's class; ResNet, RegNet, CvT and VAN use
ConvNeXT's; DINOv2, Hiera and FocalNet use BiT's."""
