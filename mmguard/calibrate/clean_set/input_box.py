"""The input domain: the box that margins are searched in (the paper's feasible set), in the model's own input space."""

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError, OptionError
from mmguard.inputs.preprocessing import pixel_box
from mmguard.inputs.spec import InputSpec, Preprocessing

logger = logging.getLogger(__name__)

CHANNELS = (1, 3)
"""Numbers of channels that an image file has."""

Shape = tuple[int | None, ...]


def declared_input(
    name: str, shape: Shape, preprocessing: Preprocessing | None, images: bool, dtype: str = "float32"
) -> InputSpec:
    """The input as the model declares it. The box is unknown, NaN, where nothing implies one.

    Args:
        name, shape, dtype: of the model's input; None for a dynamic axis.
        preprocessing: what the user gave; its mode, its layout where it is `auto`, and its scale where the model takes
            uint8 are set here.
        images: whether D is image files, which need a preprocessing: pixels scaled to [0, 1] unless the user says else,
            and as they are for a model that takes uint8.

    Raises:
        InputError: the model takes no images, or the preprocessing does not fit it.
        OptionError: numbers of more channels than it has, or a scale or mean for a model of uint8.
    """
    if preprocessing is None and images:
        preprocessing = Preprocessing(layout="auto")
    if preprocessing is None:
        return InputSpec(name, shape, *_array_box(shape, dtype), dtype=dtype)
    if len(shape) != 4:
        raise InputError(f"the model takes inputs of shape {shape[1:]}, which are no images; give them as .npz or .npy")
    preprocessing = _for_model(preprocessing, shape, dtype)
    return InputSpec(name, shape, *pixel_box(preprocessing), preprocessing, dtype)


def _array_box(shape: Shape, dtype: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """All that uint8 can be; NaN for other arrays, whose range D tells."""
    ends = (0, 255) if dtype == "uint8" else (np.nan, np.nan)
    low, high = (np.full((1,) * (len(shape) - 1), end, dtype=np.float32) for end in ends)
    return low, high


def _for_model(preprocessing: Preprocessing, shape: Shape, dtype: str) -> Preprocessing:
    """The preprocessing with all that the model's input decides."""
    if preprocessing.layout == "auto":
        preprocessing = replace(preprocessing, layout=_layout(shape))
    channels = shape[1 if preprocessing.layout == "NCHW" else -1]
    if channels not in (None, *CHANNELS):
        raise InputError(
            f"the model takes {channels} channels in layout {preprocessing.layout}, shape {shape[1:]}, and images have "
            "1 or 3; check --layout, or give the inputs as .npz or .npy"
        )
    preprocessing = replace(preprocessing, mode="L" if channels == 1 else "RGB")
    if any(len(numbers) not in (1, len(preprocessing.mode)) for numbers in (preprocessing.mean, preprocessing.std)):
        raise OptionError(f"--mean and --std take one number each, since images of {channels} channel have only one")
    return _as_pixels(preprocessing) if dtype == "uint8" else preprocessing


def _layout(shape: Shape) -> str:
    """The layout that the shape (N, ...) of an input of images tells, and a line that says so."""
    axis = _image_axis(shape)
    layout = "NHWC" if axis == len(shape) - 1 else "NCHW"
    why = "as the shape of the model's input tells" if axis else "which the shape of the model's input does not tell"
    logger.info("layout %s, %s: %s; --layout says otherwise", layout, why, _text(shape))
    return layout


def _as_pixels(preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing for a model that takes uint8, and scales and normalises these itself."""
    scaled = preprocessing.scale not in (1, Preprocessing.scale)
    if scaled or any(preprocessing.mean) or set(preprocessing.std) != {1}:
        raise OptionError(
            "the model takes uint8 pixels, so that what scales and normalises them is inside it; leave out --mean, "
            "--std and --scale, and where --preprocess gives them say --mean 0 --std 1 --scale 1"
        )
    return replace(preprocessing, scale=1.0)


def with_box(spec: InputSpec, x: npt.NDArray[np.float32]) -> InputSpec:
    """Fill in an unknown box by the range of D (N, ...): by feature of vectors, by channel of images, of other inputs
    by the axis that their shape tells, or of all of their numbers where it tells none.

    Raises:
        InputError: the box that the preprocessing implies is not of D's shape, or D does not lie in it.
    """
    if np.isfinite(spec.low).all():
        if spec.preprocessing is not None:
            _check_box(spec, x)
        logger.info("input box: %s to %s, what pixels of 0 to 255 can become", spec.low.min(), spec.high.max())
        return spec
    axis = _feature_axis(spec.shape)
    over = tuple(each for each in range(x.ndim) if each != axis)
    low, high = x.min(axis=over, keepdims=True)[0], x.max(axis=over, keepdims=True)[0]
    by = "of all numbers" if axis is None else f"by {low.size} features or channels (axis {axis})"
    logger.info(
        "input box: the range of the clean inputs %s, %s to %s, since no preprocessing was given",
        *(by, low.min(), high.max()),
    )
    if constant := int((low == high).sum()):
        logger.info("%d of them are constant in the clean inputs, and so they are in the search", constant)
    return replace(spec, low=low, high=high)


def _feature_axis(shape: Shape) -> int | None:
    """The axis of features or channels of inputs (N, ...); None where the shape does not tell it.

    Of sequences (N, length, features) or (N, channels, length) that is the axis beside a dynamic one, the length.
    """
    if len(shape) == 2:
        return 1
    if axis := _image_axis(shape):
        return axis
    if len(shape) == 3:
        fixed = [axis for axis in (1, 2) if shape[axis] is not None]
        return fixed[0] if len(fixed) == 1 else None
    return 1


def _image_axis(shape: Shape) -> int | None:
    """The first axis behind the batch's, or the last, where it alone is as long as an image has channels."""
    first, last = shape[1] in CHANNELS, shape[-1] in CHANNELS
    return None if first == last else 1 if first else len(shape) - 1


def _text(shape: Shape) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def _check_box(spec: InputSpec, x: npt.NDArray[np.float32]) -> None:
    if any(size not in (1, length) for size, length in zip(spec.low.shape, x.shape[1:], strict=True)):
        raise InputError(
            f"the preprocessing is for {spec.low.size} channels, the clean inputs are {x.shape[1:]}; check --layout"
        )
    rounding = 1e-3 * (spec.high - spec.low)
    outside = float(((x < spec.low - rounding) | (x > spec.high + rounding)).mean())
    if outside > 0:
        raise InputError(
            f"{outside:.2%} of the clean inputs' numbers lie outside the box that the preprocessing implies, "
            f"{spec.low.min():.3g} to {spec.high.max():.3g}; check --mean, --std and --scale"
        )
