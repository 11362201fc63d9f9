"""Read the preprocessing from the configuration file of a Hugging Face or timm model."""

import json
import logging
from pathlib import Path
from typing import Any

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing import huggingface, timm
from mmguard.inputs.spec import Preprocessing

logger = logging.getLogger(__name__)

MAX_BYTES = 2**24
"""Largest size of a configuration file, in bytes. A larger file is not a configuration; it may contain the weights."""


def read_preprocessing(path: Path) -> Preprocessing:
    """Read Hugging Face's `preprocessor_config.json`, or timm's `config.json` or data configuration.

    Args:
        path: the configuration file.

    Returns:
        The preprocessing that the file describes. Its layout is `auto`, because neither kind of file specifies the
            layout.

    Raises:
        OptionError: the file cannot be read, is in a different format, or contains a setting that mmguard does not
            support. The message contains the name of the setting.
    """
    raw = _load(path)
    try:
        preprocessing = _parse(raw)
    except OptionError as error:
        raise OptionError(f"--preprocess {path}: {error}") from error
    logger.info("read the preprocessing from %s", path)
    return preprocessing


def _load(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise OptionError(
                f"--preprocess {path} is too large for a configuration: expected at most {MAX_BYTES} bytes, got "
                f"{size}; pass the preprocessor_config.json or config.json that came with the model"
            )
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--preprocess {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"--preprocess {path} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise OptionError(
            f"--preprocess {path}: expected a JSON object, got {type(raw).__name__}; pass a configuration file"
        )
    return raw


def _parse(raw: dict[str, Any]) -> Preprocessing:
    if isinstance(raw.get("pretrained_cfg"), dict):
        return timm.from_pretrained_cfg(raw["pretrained_cfg"])
    if isinstance(raw.get("image_processor"), dict):
        return huggingface.from_preprocessor_config(raw["image_processor"])
    if "image_processor_type" in raw or "feature_extractor_type" in raw:
        return huggingface.from_preprocessor_config(raw)
    if "input_size" in raw:  # a config.json of early timm versions has an architecture, but no pretrained_cfg
        return timm.from_pretrained_cfg(raw) if "architecture" in raw else timm.from_data_config(raw)
    if "image_mean" in raw or "do_resize" in raw:
        raise OptionError(
            "the file has no image_processor_type, which determines the defaults; add the class that the model was "
            'trained with, such as "image_processor_type": "ViTImageProcessor"'
        )
    if "model_type" in raw or "architectures" in raw:
        raise OptionError(
            "this is the model's own configuration; pass the preprocessor_config.json that comes with the model"
        )
    raise OptionError(
        "expected a file from Hugging Face (with image_processor_type) or timm (with pretrained_cfg or input_size), "
        "but the file has none of these fields; use --mean, --std, --scale, --size and --crop instead"
    )
