"""Crop and flip a whole batch at random."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

PADDING = 4


def crop_and_flip(x: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Pad by 4 black pixels, crop at a random place, and mirror half of the images (He et al. 2016, section 4.2).

    Args:
        x: (N, H, W, C) uint8.
        generator: draws the places and the flips.

    Returns:
        A new array (N, H, W, C) uint8.
    """
    count, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))  # (N, 9, 9, C, H, W), a view
    top, left = generator.integers(0, 2 * PADDING + 1, size=(2, count))
    cropped = windows[np.arange(count), top, left].transpose(0, 2, 3, 1)
    augmented = np.ascontiguousarray(cropped)
    mirrored = np.flatnonzero(generator.random(count) < 0.5)
    augmented[mirrored] = augmented[mirrored, :, ::-1]
    return augmented
