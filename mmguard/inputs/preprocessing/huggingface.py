"""Convert Hugging Face's `preprocessor_config.json` to the preprocessing of the corresponding Pillow image processor.

The conversion follows the documentation and behaviour of the image processors of transformers 4 and 5. For a field
that is missing or null, the default value of the class is used. After resizing and cropping, the processors apply one
affine map per channel in float32; the map is stored as scale, mean and std.
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
"""Pillow's resampling filters. A configuration file refers to a filter by its index in this list."""

FIELDS = frozenset(
    {
        *("do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size"),
        *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb"),
    }
)
"""Fields that every class has. Images are always converted to the model's channels, regardless of `do_convert_rgb`."""

WITHOUT_EFFECT = frozenset(
    {
        *("image_processor_type", "feature_extractor_type", "processor_class", "_processor_class"),
        *("transformers_version", "_valid_processor_keys", "_valid_kwargs_names", "model_input_names"),
        *("do_reduce_labels", "reduce_labels", "return_tensors", "input_data_format", "device", "disable_grouping"),
        *("pad_size", "image_seq_length"),
    }
)
"""Fields that do not affect the pixels: names, label handling, and `pad_size`, which has no effect without `do_pad`."""


def from_preprocessor_config(raw: Mapping[str, Any]) -> Preprocessing:
    """Convert a parsed `preprocessor_config.json`.

    Args:
        raw: fields of the file.

    Returns:
        The preprocessing, with the layout `auto`.

    Raises:
        OptionError: mmguard does not support the class or a field, or a required field is missing.
    """
    name = _class(raw)
    if name not in PROCESSORS:
        raise OptionError(
            f"mmguard does not support image_processor_type {name!r}, only {', '.join(sorted(PROCESSORS))}; use "
            "--mean, --std, --scale, --size and --crop instead"
        )
    processor = PROCESSORS[name]
    fields = {field: value for field, value in raw.items() if value is not None}
    _refuse_unknown(name, fields, processor)
    if missing := sorted(processor.unsettled - set(fields)):
        raise OptionError(
            f"the file has no {', '.join(missing)}, and the default of {name} differs between versions of "
            "transformers; add the value that the model was trained with"
        )
    return _Config(name, processor, fields).preprocessing()


def _class(raw: Mapping[str, Any]) -> str:
    """Return the name of the image processor class. For a feature extractor or a variant, return its base class."""
    name = str(raw.get("image_processor_type") or raw.get("feature_extractor_type"))
    if name.endswith("Fast"):
        logger.warning(
            "warning: %s resizes with torchvision, but mmguard resizes with Pillow; pixel values can differ by one "
            "grey level",
            name,
        )
    return name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")


def _refuse_unknown(name: str, fields: Mapping[str, object], processor: Processor) -> None:
    known = FIELDS | WITHOUT_EFFECT | set(processor.own)
    given = {field for field, value in fields.items() if value is not False}
    if fields.get("data_format") == "channels_first":
        given.discard("data_format")
    if unknown := sorted(given - known):
        raise _unsupported(name, unknown)


def _unsupported(name: str, fields: list[str]) -> OptionError:
    return OptionError(
        f"mmguard does not support {', '.join(fields)} in {name}; prepare the images yourself and provide them as .npz"
    )


@dataclass(frozen=True)
class _Config:
    """The fields of one file that are not null, and the class whose defaults apply to all other fields."""

    name: str
    processor: Processor
    fields: Mapping[str, Any]

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that the fields describe."""
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
        """Return the fields of `Preprocessing` that describe resizing and cropping."""
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
            raise _unsupported(self.name, ["do_center_crop"])
        if self.processor.crop is None and "crop_size" not in self.fields:
            raise OptionError("do_center_crop needs a crop_size; add the crop_size that the model was trained with")
        crop = self._lengths("crop_size", self.processor.crop, True)
        if "height" not in crop:
            raise OptionError(f"crop_size must be a height and a width, got {self.fields['crop_size']}")
        return crop["height"], crop["width"]

    def _lengths(self, field: str, default: object, square: bool) -> dict[str, int]:
        """Return a size as `height` and `width`, or as `shortest_edge`.

        Raises:
            OptionError: the field is not a length, a height and width, or a shortest_edge.
        """
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
            raise OptionError(f"{field} must be a length, a height and width, or a shortest_edge, got {value}")
        return {edge: length(f"{field} {edge}", side) for edge, side in given.items()}

    def _interpolation(self) -> str:
        value = self.fields.get("resample", self.processor.resample)
        if type(value) is not int or not 0 <= value < len(FILTERS):
            raise OptionError(
                f"resample must be the number of a Pillow filter, from 0 to {len(FILTERS) - 1}, got {value!r}"
            )
        return FILTERS[value]

    def _affine(self) -> dict[str, Any]:
        """Return the scale, mean and std that together describe all operations on the pixel values.

        Raises:
            OptionError: the file requests normalisation, but the class does not normalise.
        """
        found: dict[str, Any] = {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}
        if self._flag("do_rescale", True):
            found["scale"] = number("rescale_factor", self.fields.get("rescale_factor", 1 / 255))
        if self._flag("do_normalize", self.processor.normalises):
            if not self.processor.normalises:
                raise OptionError(
                    f"{self.name} does not normalise, but the file has do_normalize; remove this field or correct "
                    "the name of the class"
                )
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
