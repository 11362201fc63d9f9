"""Preprocessing from a file that a model came with: Hugging Face's or timm's."""

import json
import logging
from pathlib import Path
from typing import Any

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing import huggingface, timm
from mmguard.inputs.spec import Preprocessing

logger = logging.getLogger(__name__)

MAX_BYTES = 2**24
"""A configuration is small; what is larger is something else, such as the weights."""


def read_preprocessing(path: Path) -> Preprocessing:
    """Read a `preprocessor_config.json` of Hugging Face, or a `config.json` or data configuration of timm.

    Returns:
        What images go through there. The layout is `auto`: neither file says it.

    Raises:
        OptionError: unreadable, another kind of file, or one that asks for what mmguard does not do, by name.
    """
    raw = _load(path)
    try:
        preprocessing = _parse(raw)
    except OptionError as error:
        raise OptionError(f"--preprocess {path}: {error}") from error
    logger.info("preprocessing from %s", path)
    return preprocessing


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise OptionError(f"--preprocess {path}: too large for a configuration")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--preprocess {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"--preprocess {path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise OptionError(f"--preprocess {path}: expected a JSON object, got a {type(raw).__name__}")
    return raw


def _parse(raw: dict[str, Any]) -> Preprocessing:
    if isinstance(raw.get("pretrained_cfg"), dict):
        return timm.from_pretrained_cfg(raw["pretrained_cfg"])
    if isinstance(raw.get("image_processor"), dict):
        return huggingface.from_preprocessor_config(raw["image_processor"])
    if "image_processor_type" in raw or "feature_extractor_type" in raw:
        return huggingface.from_preprocessor_config(raw)
    if "input_size" in raw:  # beside an architecture it is an early timm's config.json, which had no pretrained_cfg
        return timm.from_pretrained_cfg(raw) if "architecture" in raw else timm.from_data_config(raw)
    if "image_mean" in raw or "do_resize" in raw:
        raise OptionError(
            "it has no image_processor_type, on which the defaults depend; add the class that the model was trained "
            'with, such as "image_processor_type": "ViTImageProcessor"'
        )
    if "model_type" in raw or "architectures" in raw:
        raise OptionError("this is the model's own configuration; give the preprocessor_config.json beside it")
    raise OptionError(
        "neither Hugging Face's (no image_processor_type) nor timm's (no pretrained_cfg and no input_size); "
        "give --mean, --std, --scale, --size and --crop instead"
    )
