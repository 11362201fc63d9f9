"""Preprocessing from timm's configuration of a model: the pipeline that its evaluation runs.

Source: `timm.data.resolve_data_config` and `timm.data.create_transform(is_training=False)` of timm 1.0.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing.fields import length, numbers, share
from mmguard.inputs.preprocessing.processors import IMAGENET_MEAN, IMAGENET_STD
from mmguard.inputs.spec import PREPROCESSING_CHOICES, Preprocessing

logger = logging.getLogger(__name__)

DEFAULT_CROP_PCT = 0.875
FIELDS = frozenset({"input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"})
"""All that the pipeline reads; everything else in a `pretrained_cfg` says where weights come from and what they are."""


def from_pretrained_cfg(config: Mapping[str, Any]) -> Preprocessing:
    """Preprocessing from the `pretrained_cfg` in the `config.json` of a timm model on the Hugging Face hub.

    Raises:
        OptionError: a field that asks for what mmguard does not do.
    """
    test_size = config.get("test_input_size")
    if test_size and test_size != config.get("input_size"):
        logger.info("timm's test_input_size %s is not used; --size and --crop can give it", test_size)
    return from_data_config({name: config[name] for name in FIELDS if name in config})


def from_data_config(config: Mapping[str, Any]) -> Preprocessing:
    """Preprocessing from what `resolve_data_config` gives: input_size (C, H, W), interpolation, mean, std, crop_pct, ….

    Raises:
        OptionError: a field that asks for what mmguard does not do.
    """
    if unknown := sorted(name for name in set(config) - FIELDS if config[name] not in (None, False)):
        raise OptionError(f"{', '.join(unknown)}: what timm would do by it is not known")
    _, *crop = _input_size(config)
    mean, std = config.get("mean") or IMAGENET_MEAN, config.get("std") or IMAGENET_STD
    return Preprocessing(
        **_resizing(crop, share("crop_pct", config.get("crop_pct") or DEFAULT_CROP_PCT), config.get("crop_mode")),
        crop=(crop[0], crop[1]),
        crop_rounding="even",
        interpolation=_interpolation(config),
        mean=numbers("mean", mean),
        std=numbers("std", std),
        layout="auto",
    )


def _input_size(config: Mapping[str, Any]) -> tuple[int, ...]:
    size = config.get("input_size") or (3, 224, 224)
    if not isinstance(size, (list, tuple)) or len(size) != 3 or size[0] not in (1, 3):
        raise OptionError(f"input_size must be 1 or 3 channels, a height and a width, got {size}")
    return tuple(length("input_size", side) for side in size)


def _interpolation(config: Mapping[str, Any]) -> str:
    name = config.get("interpolation") or "bicubic"
    if name not in PREPROCESSING_CHOICES["interpolation"]:
        raise OptionError(f"interpolation {name!r} is not one of {', '.join(PREPROCESSING_CHOICES['interpolation'])}")
    return str(name)


def _resizing(crop: list[int], percentage: float, mode: object) -> dict[str, Any]:
    """What images are resized to before the crop: each side over the percentage, rounded down."""
    height, width = (math.floor(side / percentage) for side in crop)
    if mode == "squash":
        return {"size": (height, width)}
    if mode not in (None, "center"):
        raise OptionError(f"crop_mode {mode!r} is not known; give --size and --crop instead")
    if height != width:
        raise OptionError(
            f"crop_mode 'center' of an input_size of {crop[0]} x {crop[1]}, which is not square, is not known; "
            "export the model at a square size, or read the images yourself and give them as .npz"
        )
    return {"shortest_edge": height}
