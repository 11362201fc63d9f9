"""Convert a model's timm configuration to the preprocessing that timm uses for evaluation.

The conversion follows `timm.data.resolve_data_config` and `timm.data.create_transform(is_training=False)` of timm 1.0.
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
"""Fields that affect the preprocessing. Other fields of a `pretrained_cfg` describe the weights and their origin."""


def from_pretrained_cfg(config: Mapping[str, Any]) -> Preprocessing:
    """Convert the `pretrained_cfg` in the `config.json` of a timm model on the Hugging Face hub.

    Args:
        config: the fields of `pretrained_cfg`.

    Returns:
        The preprocessing, with the layout `auto`.

    Raises:
        OptionError: mmguard does not support the value of a field.
    """
    test_size = config.get("test_input_size")
    if test_size and test_size != config.get("input_size"):
        logger.info("ignoring timm's test_input_size %s; to use it, pass --size and --crop", test_size)
    return from_data_config({name: config[name] for name in FIELDS if name in config})


def from_data_config(config: Mapping[str, Any]) -> Preprocessing:
    """Convert the result of timm's `resolve_data_config`.

    Args:
        config: input_size (C, H, W), interpolation, mean, std, crop_pct, crop_mode; missing fields have timm's
            defaults.

    Returns:
        The preprocessing, with the layout `auto`.

    Raises:
        OptionError: mmguard does not support the value of a field.
    """
    if unknown := sorted(name for name in set(config) - FIELDS if config[name] not in (None, False)):
        raise OptionError(
            f"mmguard does not support timm's {', '.join(unknown)}; prepare the images yourself and provide "
            "them as .npz"
        )
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
        raise OptionError(f"input_size must consist of 1 or 3 channels, a height and a width, got {size}")
    return tuple(length("input_size", side) for side in size)


def _interpolation(config: Mapping[str, Any]) -> str:
    name = config.get("interpolation") or "bicubic"
    if name not in PREPROCESSING_CHOICES["interpolation"]:
        raise OptionError(
            f"interpolation must be one of {', '.join(PREPROCESSING_CHOICES['interpolation'])}, got {name!r}"
        )
    return str(name)


def _resizing(crop: list[int], percentage: float, mode: object) -> dict[str, Any]:
    """Return the size before the crop: each side of the crop divided by `percentage`, rounded down.

    Raises:
        OptionError: mmguard does not support the crop mode, or does not support it for a crop that is not square.
    """
    height, width = (math.floor(side / percentage) for side in crop)
    if mode == "squash":
        return {"size": (height, width)}
    if mode not in (None, "center"):
        raise OptionError(f"mmguard does not support timm's crop_mode {mode!r}; use --size and --crop instead")
    if height != width:
        raise OptionError(
            f"mmguard does not support timm's crop_mode 'center' with an input_size of {crop[0]} x {crop[1]}, which is "
            "not square; export the model at a square size, or prepare the images yourself and provide them as .npz"
        )
    return {"shortest_edge": height}
