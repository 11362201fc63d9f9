"""The input box: the set of feasible inputs that the margin search is limited to (X in the paper's Eq. 4 and 6)."""

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError, OptionError
from mmguard.inputs.preprocessing import pixel_box
from mmguard.inputs.spec import InputSpec, Preprocessing

logger = logging.getLogger(__name__)

CHANNELS = (1, 3)
"""Numbers of channels that an image file can have."""

Shape = tuple[int | None, ...]


def declared_input(
    name: str, shape: Shape, preprocessing: Preprocessing | None, images: bool, dtype: str = "float32"
) -> InputSpec:
    """Describe the model's input, based on the model's own declaration and on the preprocessing.

    Args:
        name: ONNX name of the input.
        shape: shape of the input, (N, ...); None for a dynamic axis.
        preprocessing: preprocessing specified by the user, or None. This function sets the mode, the layout if it is
            `auto`, and the scale if the model takes uint8.
        images: whether the calibration set consists of image files, which need preprocessing. If `preprocessing` is
            None, pixels are scaled to [0, 1], or left unchanged if the model takes uint8.
        dtype: NumPy name of the input's dtype.

    Returns:
        Description of the input. The limits of the box are NaN if they cannot be determined from the preprocessing or
        the dtype.

    Raises:
        InputError: the model does not take images, or the preprocessing does not fit the model.
        OptionError: there are more means or standard deviations than channels, or the options scale or normalise the
            pixels of a uint8 model.
    """
    if preprocessing is None and images:
        preprocessing = Preprocessing(layout="auto")
    if preprocessing is None:
        return InputSpec(name, shape, *_array_box(shape, dtype), dtype=dtype)
    if len(shape) != 4:
        raise InputError(
            f"the model takes inputs of shape {_text(shape)}, which are not images; provide the calibration set as an "
            ".npz, .npy or .csv file, and leave out all image options"
        )
    preprocessing = _for_model(preprocessing, shape, dtype)
    return InputSpec(name, shape, *pixel_box(preprocessing), preprocessing, dtype)


def _array_box(shape: Shape, dtype: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the range of uint8; NaN for other dtypes, because their range is taken from the calibration set."""
    ends = (0, 255) if dtype == "uint8" else (np.nan, np.nan)
    low, high = (np.full((1,) * (len(shape) - 1), end, dtype=np.float32) for end in ends)
    return low, high


def _for_model(preprocessing: Preprocessing, shape: Shape, dtype: str) -> Preprocessing:
    """Set the layout, mode and scale of the preprocessing to what the model's input requires."""
    if preprocessing.layout == "auto":
        preprocessing = replace(preprocessing, layout=_layout(shape))
    channels = shape[1 if preprocessing.layout == "NCHW" else -1]
    if channels not in (None, *CHANNELS):
        raise InputError(
            f"the model takes {channels} channels in layout {preprocessing.layout} (input shape {_text(shape)}), but "
            "images have 1 or 3 channels; check --layout, or provide the calibration set as an .npz or .npy file"
        )
    preprocessing = replace(preprocessing, mode="L" if channels == 1 else "RGB")
    most = max(len(preprocessing.mean), len(preprocessing.std))
    if any(len(numbers) not in (1, len(preprocessing.mode)) for numbers in (preprocessing.mean, preprocessing.std)):
        raise OptionError(
            f"expected one number each for --mean and --std, because the model's images have one channel, got {most}; "
            "pass one number for each"
        )
    return _as_pixels(preprocessing) if dtype == "uint8" else preprocessing


def _layout(shape: Shape) -> str:
    """Infer the layout of an image input from its shape (N, ...), and log the layout."""
    axis = _image_axis(shape)
    layout = "NHWC" if axis == len(shape) - 1 else "NCHW"
    why = "inferred from" if axis else "assumed because it cannot be inferred from"
    logger.info(
        "layout %s, %s the model's input shape %s; use --layout to change the layout", layout, why, _text(shape)
    )
    return layout


def _as_pixels(preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing for a model that takes uint8 pixels, and therefore scales and normalises them itself."""
    scaled = preprocessing.scale not in (1, Preprocessing.scale)
    if scaled or any(preprocessing.mean) or set(preprocessing.std) != {1}:
        raise OptionError(
            "the model takes uint8 pixels, so it scales and normalises them itself; leave out --mean, --std and "
            "--scale, and if --preprocess sets them, pass --mean 0 --std 1 --scale 1"
        )
    return replace(preprocessing, scale=1.0)


def with_box(spec: InputSpec, x: npt.NDArray[np.float32]) -> InputSpec:
    """Check that D lies in the box; if the box is unknown, set it to the range of D.

    The range is computed for each feature of vectors and each channel of images. For other inputs, the range is
    computed for each feature if the feature axis can be determined from the shape, and over all values otherwise.

    Args:
        spec: description of the model's input; the box is unknown if its limits are NaN.
        x: (N, ...) float32, the clean inputs D.

    Returns:
        The description, with a known box.

    Raises:
        InputError: the preprocessing does not fit the shape of D, or D does not lie in the box that follows from the
            preprocessing.
    """
    if np.isfinite(spec.low).all():
        if spec.preprocessing is not None:
            _check_box(spec, x)
        logger.info("input box: %s to %s, which corresponds to pixels from 0 to 255", spec.low.min(), spec.high.max())
        return spec
    axis = _feature_axis(spec.shape)
    over = tuple(each for each in range(x.ndim) if each != axis)
    low, high = x.min(axis=over, keepdims=True)[0], x.max(axis=over, keepdims=True)[0]
    per = "over all values" if axis is None else f"for each of {low.size} features or channels (axis {axis})"
    logger.info(
        "there is no preprocessing, so the input box is the range of the calibration set, computed %s; overall, the "
        "box extends from %s to %s",
        *(per, low.min(), high.max()),
    )
    if constant := int((low == high).sum()):
        logger.info(
            "number of features or channels that are constant in the calibration set, and thus in the margin search: "
            "%d",
            constant,
        )
    return replace(spec, low=low, high=high)


def _feature_axis(shape: Shape) -> int | None:
    """Return the axis of features or channels of inputs (N, ...); None if the axis cannot be determined from the shape.

    For sequences (N, length, features) or (N, channels, length), the result is the axis whose length is fixed,
    because the dynamic axis is the length of the sequence.
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
    """Return the channel axis, which is axis 1 or the last axis; None if it cannot be determined from the shape."""
    first, last = shape[1] in CHANNELS, shape[-1] in CHANNELS
    return None if first == last else 1 if first else len(shape) - 1


def _text(shape: Shape) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def _check_box(spec: InputSpec, x: npt.NDArray[np.float32]) -> None:
    if any(size not in (1, length) for size, length in zip(spec.low.shape, x.shape[1:], strict=True)):
        raise InputError(
            f"the preprocessing is for {spec.low.size} channels, but the calibration set has inputs of shape "
            f"{x.shape[1:]}; check --layout"
        )
    rounding = 1e-3 * (spec.high - spec.low)
    outside = float(((x < spec.low - rounding) | (x > spec.high + rounding)).mean())
    if outside > 0:
        raise InputError(
            f"{outside:.2%} of the calibration set's values lie outside the input box that follows from the "
            f"preprocessing, {spec.low.min():.3g} to {spec.high.max():.3g}; check --mean, --std and --scale"
        )
