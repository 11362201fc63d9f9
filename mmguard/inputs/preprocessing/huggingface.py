"""Preprocessing from Hugging Face's `preprocessor_config.json`: what the Pillow image processor of its class does.

Source: the documentation and the behaviour of the image processors of transformers 4 and 5. A field that is missing, or
null, has the default of the class. What they do in float32 after resizing and cropping is one affine map a channel, and
is kept as such.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmguard.errors import OptionError
from mmguard.inputs.preprocessing.fields import flag, length, number, numbers, share
from mmguard.inputs.preprocessing.processors import PROCESSORS, Processor
from mmguard.inputs.spec import Preprocessing

logger = logging.getLogger(__name__)

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by the numbers that the files give them."""

FIELDS = frozenset(
    {
        *("do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size"),
        *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb"),
    }
)
"""What every class knows. Images are always converted to the model's channels, whatever `do_convert_rgb` says."""

WITHOUT_EFFECT = frozenset(
    {
        *("image_processor_type", "feature_extractor_type", "processor_class", "_processor_class"),
        *("transformers_version", "_valid_processor_keys", "_valid_kwargs_names", "model_input_names"),
        *("do_reduce_labels", "reduce_labels", "return_tensors", "input_data_format", "device", "disable_grouping"),
        *("pad_size", "image_seq_length"),
    }
)
"""Fields that move no pixel: names, what becomes of labels, and `pad_size`, which `do_pad` alone gives a meaning."""


def from_preprocessor_config(raw: Mapping[str, Any]) -> Preprocessing:
    """Preprocessing from the parsed file.

    Raises:
        OptionError: an unknown class, or a field that asks for what mmguard does not do.
    """
    name = _class(raw)
    if name not in PROCESSORS:
        raise OptionError(f"image_processor_type {name!r} is not known; known are {', '.join(sorted(PROCESSORS))}")
    processor = PROCESSORS[name]
    fields = {field: value for field, value in raw.items() if value is not None}
    _refuse_unknown(name, fields, processor)
    if missing := sorted(processor.unsettled - set(fields)):
        raise OptionError(
            f"it has no {', '.join(missing)}, and the default of {name} differs between versions of transformers; "
            "add what the model was trained with"
        )
    return _Config(name, processor, fields).preprocessing()


def _class(raw: Mapping[str, Any]) -> str:
    """The class without its generation: a feature extractor of old, or one that runs on torchvision or on Pillow."""
    name = str(raw.get("image_processor_type") or raw.get("feature_extractor_type"))
    if name.endswith("Fast"):
        logger.warning("warning: %s resizes by torchvision; by Pillow, as here, pixels can differ by a level", name)
    return name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")


def _refuse_unknown(name: str, fields: Mapping[str, object], processor: Processor) -> None:
    known = FIELDS | WITHOUT_EFFECT | set(processor.own)
    given = {field for field, value in fields.items() if value is not False}
    if fields.get("data_format") == "channels_first":
        given.discard("data_format")
    if unknown := sorted(given - known):
        raise OptionError(f"{', '.join(unknown)}: what {name} would do by it is not known")


@dataclass(frozen=True)
class _Config:
    """One file: its fields that are not null, over the defaults of its class."""

    name: str
    processor: Processor
    fields: Mapping[str, Any]

    def preprocessing(self) -> Preprocessing:
        """All of it."""
        flipped = self._flag("do_flip_channel_order", False)
        return Preprocessing(
            **self._geometry(),
            **self._affine(),
            crop_rounding="floor",
            layout="auto",
            channel_order="BGR" if flipped else "RGB",
        )

    def _get(self, field: str, default: object) -> Any:
        return self.fields.get(field, self.processor.own.get(field, default))

    def _flag(self, field: str, default: bool) -> bool:
        return flag(field, self._get(field, default))

    def _geometry(self) -> dict[str, Any]:
        """What images are resized and cropped to."""
        found: dict[str, Any] = {}
        if self._flag("do_resize", True):
            size = self._lengths("size", self.processor.size, self.processor.square)
            found |= self.processor.resizing(size, share("crop_pct", self._get("crop_pct", 1)))
            found["interpolation"] = self._interpolation()
        if self._flag("do_center_crop", self.processor.crop is not None):
            found["crop"] = self._crop()
        return found

    def _crop(self) -> tuple[int, int]:
        if not self.processor.crops:
            raise OptionError(f"do_center_crop: what {self.name} would do by it is not known")
        if self.processor.crop is None and "crop_size" not in self.fields:
            raise OptionError("do_center_crop needs a crop_size")
        crop = self._lengths("crop_size", self.processor.crop, True)
        if "height" not in crop:
            raise OptionError(f"crop_size must be a height and a width, got {self.fields['crop_size']}")
        return crop["height"], crop["width"]

    def _lengths(self, field: str, default: object, square: bool) -> dict[str, int]:
        """A size as `height` and `width`, or as `shortest_edge`."""
        value = self.fields.get(field, default)
        if isinstance(value, dict):
            given = {edge: side for edge, side in value.items() if side is not None}
        elif isinstance(value, list) and len(value) == 2:
            given = dict(zip(("height", "width"), value, strict=True))
        elif field == "crop_size" or self._flag("default_to_square", square):
            given = {"height": value, "width": value}
        else:
            given = {"shortest_edge": value}
        if set(given) not in ({"height", "width"}, {"shortest_edge"}):
            raise OptionError(f"{field} must be a length, height and width, or shortest_edge, got {value}")
        return {edge: length(f"{field} {edge}", side) for edge, side in given.items()}

    def _interpolation(self) -> str:
        value = self.fields.get("resample", self.processor.resample)
        if type(value) is not int or not 0 <= value < len(FILTERS):
            raise OptionError(f"resample must be the number of a Pillow filter, 0 to {len(FILTERS) - 1}, got {value!r}")
        return FILTERS[value]

    def _affine(self) -> dict[str, Any]:
        """Scale, mean and std of all that is done to the pixels' values."""
        found: dict[str, Any] = {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}
        if self._flag("do_rescale", True):
            found["scale"] = number("rescale_factor", self.fields.get("rescale_factor", 1 / 255))
        if self._flag("do_normalize", self.processor.normalises):
            if not self.processor.normalises:
                raise OptionError(f"do_normalize: {self.name} does not normalise, so what was meant is not known")
            found["mean"], found["std"] = self._numbers("image_mean"), self._numbers("image_std")
        if self._flag("do_rescale", True) and self._flag("rescale_offset", False):
            found["mean"] = tuple(1 + mean for mean in found["mean"])
        if self._flag("include_top", False):
            found["std"] = _product(found["std"], self._numbers("image_std"))
        return found

    def _numbers(self, field: str) -> tuple[float, ...]:
        default = self.processor.mean if field == "image_mean" else self.processor.std
        return numbers(field, self.fields.get(field, list(default)))


def _product(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    channels = max(len(a), len(b))
    return tuple(x * y for x, y in zip(a * (channels // len(a)), b * (channels // len(b)), strict=True))
