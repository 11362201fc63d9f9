"""Preprocessing from a command's options."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing.files import read_preprocessing
from mmguard.inputs.spec import Preprocessing

logger = logging.getLogger(__name__)


def preprocessing_from(
    *,
    file: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float | None = None,
    layout: str | None = None,
    size: str | None = None,
    crop: str | None = None,
    interpolation: str | None = None,
    channel_order: str | None = None,
) -> Preprocessing | None:
    """Preprocessing from what a user gave; None where nothing was given.

    Args:
        file: a configuration of Hugging Face or timm, see `read_preprocessing`. What is given beside it overrides it.
        mean, std: one number, or one a channel.
        layout: without it the layout is left to the model's shape: `auto`.
        size: `256x192`, height before width: images are resized to exactly that. `256` alone is the length of the
            shorter edge where there is a crop, else 256x256.
        crop: `224`, or `224x192`, height before width: what is cut from the middle after resizing.
        scale, interpolation, channel_order: see `Preprocessing`.

    Raises:
        OptionError: numbers that make no preprocessing, or a file that cannot be used.
    """
    single = {"scale": scale, "layout": layout, "interpolation": interpolation, "channel_order": channel_order}
    given: dict[str, Any] = {name: value for name, value in single.items() if value is not None}
    given |= {name: tuple(numbers) for name, numbers in (("mean", mean), ("std", std)) if numbers}
    if file is None and not given and size is None and crop is None:
        return None
    base = Preprocessing(layout="auto") if file is None else read_preprocessing(file)
    if crop is not None:
        given["crop"] = _parse_lengths("--crop", crop)
    if size is not None:
        given |= _resizing(size, cropped="crop" in given or base.crop is not None)
    preprocessing = replace(base, **given)
    _warn_of_frame(preprocessing)
    return preprocessing


def _resizing(size: str, cropped: bool) -> dict[str, Any]:
    height, width = _parse_lengths("--size", size)
    if cropped and size.isdecimal():
        return {"size": None, "shortest_edge": height}
    return {"size": (height, width), "shortest_edge": None}


def _parse_lengths(option: str, text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and len(part) < 6 and int(part) > 0 for part in parts):
        raise OptionError(f"{option} takes a side or HEIGHTxWIDTH, such as 224 or 224x192, got {text!r}")
    return int(parts[0]), int(parts[-1])


def _warn_of_frame(preprocessing: Preprocessing) -> None:
    crop, size = preprocessing.crop, preprocessing.size
    if size is None and preprocessing.shortest_edge is not None:
        size = preprocessing.shortest_edge, preprocessing.shortest_edge
    if crop and size and (crop[0] > size[0] or crop[1] > size[1]):
        logger.warning("warning: a crop of %d x %d is more than images are resized to, so they get black edges", *crop)
