"""Hugging Face's image processors of classifiers: the defaults of each class, and what each resizes an image to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmguard.errors import OptionError

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BILINEAR, BICUBIC = 2, 3
WARPED_FROM = 384
"""ConvNeXT squeezes images into a square of this side or more, and crops to a smaller one."""

Lengths = Mapping[str, int]
"""`height` and `width`, or `shortest_edge`."""
Resizing = Callable[[Lengths, float], dict[str, Any]]


def plain(size: Lengths, crop_pct: float) -> dict[str, Any]:
    """To a height and width whatever the aspect, or to a shortest edge."""
    if "shortest_edge" in size:
        return {"shortest_edge": size["shortest_edge"]}
    return {"size": (size["height"], size["width"])}


def convnext(size: Lengths, crop_pct: float) -> dict[str, Any]:
    """To a shortest edge that is larger by the percentage and then to the middle of it; large ones as a square."""
    if "shortest_edge" not in size:
        raise OptionError(f"size must be the shortest_edge for this image processor, got {dict(size)}")
    edge = size["shortest_edge"]
    if edge >= WARPED_FROM:
        return {"size": (edge, edge)}
    return {"shortest_edge": int(edge / crop_pct), "crop": (edge, edge)}


def levit(size: Lengths, crop_pct: float) -> dict[str, Any]:
    """To a shortest edge that is larger by 256/224."""
    if "shortest_edge" in size:
        return {"shortest_edge": int((256 / 224) * size["shortest_edge"])}
    return plain(size, crop_pct)


def poolformer(size: Lengths, crop_pct: float) -> dict[str, Any]:
    """To lengths that are larger by the percentage; a square is taken for its side as the shortest edge."""
    larger = {edge: int(side / crop_pct) for edge, side in size.items()}
    if size.get("height") == size.get("width"):
        return {"shortest_edge": next(iter(larger.values()))}
    return plain(larger, crop_pct)


@dataclass(frozen=True)
class Processor:
    """One class.

    Attributes:
        side: default size. square: whether a single number for the size is a square, else the shortest edge.
        crop: default of crop_size; None where the class does not crop unless it is told to.
        crops: whether it can be told to.
        resample: Pillow's number of the default filter.
        mean, std: defaults. normalises: whether they are used.
        own: fields that this class knows beside those of all, and their defaults.
        unsettled: fields whose defaults differ between transformers 4 and 5, so that a file must have them.
        resizing: what it makes of the size and of crop_pct.
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
        """The default size, as a file gives it."""
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
"""By class name. Swin, SwiftFormer and ViT-MSN use ViT's; ResNet, RegNet, CvT and VAN use ConvNeXT's; DINOv2, Hiera
and FocalNet use BiT's."""
