"""The input domain: the box that margins are searched in (the paper's feasible set), in the model's own input space."""

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.images import pixel_box
from mmguard.types import InputSpec, Preprocessing

logger = logging.getLogger(__name__)


def declared_input(
    name: str, shape: tuple[int | None, ...], preprocessing: Preprocessing | None, images: bool
) -> InputSpec:
    """The input as the model declares it. The box is unknown, NaN, where no preprocessing implies one.

    Args:
        name, shape: of the model's input; None for a dynamic axis.
        preprocessing: what the user gave; its mode is set here, by the number of the model's channels.
        images: whether D is image files, which need a preprocessing: pixels scaled to [0, 1] unless the user says else.

    Raises:
        InputError: the model takes no images, or the preprocessing has more channels than it.
    """
    if preprocessing is None and images:
        preprocessing = Preprocessing()
    unknown = np.array(np.nan, dtype=np.float32)
    if preprocessing is None:
        return InputSpec(name, shape, unknown, unknown)
    if len(shape) != 4:
        raise InputError(f"the model takes inputs of shape {shape[1:]}, which are no images; give them as .npz or .npy")
    channels = shape[1 if preprocessing.layout == "NCHW" else -1]
    preprocessing = replace(preprocessing, mode="L" if channels == 1 else "RGB")
    if any(len(numbers) not in (1, len(preprocessing.mode)) for numbers in (preprocessing.mean, preprocessing.std)):
        raise InputError(f"--mean and --std take one number each, since images of {channels} channel have only one")
    return InputSpec(name, shape, *pixel_box(preprocessing), preprocessing)


def with_box(spec: InputSpec, x: npt.NDArray[np.float32]) -> InputSpec:
    """Fill in an unknown box by the range of D (N, ...), by channel (by feature, for vectors).

    Raises:
        InputError: the box that the preprocessing implies is not of D's shape, or D does not lie in it.
    """
    if spec.preprocessing is not None:
        _check_box(spec, x)
        return spec
    over = (0, *range(2, x.ndim))
    low, high = x.min(axis=over, keepdims=True)[0], x.max(axis=over, keepdims=True)[0]
    logger.info(
        "input box: the range of the clean inputs, %s to %s, since no preprocessing was given", low.min(), high.max()
    )
    return replace(spec, low=low, high=high)


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
