"""Training sets in which some classes are rare (Cao et al. 2019, section 4; Cui et al. 2019, section 5.1).

Section 4.2 of the paper: with n₀ images of the most frequent class, and a ratio r between it and the rarest,

    LT-r:   nᵢ = n₀ μⁱ, μ = r^(−1/(K − 1))
    step-r: nᵢ = n₀ for i < K/2, else n₀ / r

both rounded down. Class 0 is the most frequent.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar import Labels

Sizes = NDArray[np.int64]
"""Number of images of each class, (K,) int64."""

Profile = Callable[[int, int], Sizes]
"""Takes n₀ and the number of classes K, and returns the sizes (K,)."""

ROUNDING = 1e-9
"""Added before rounding down, so that 500 / 100 stays 5 despite rounding errors of the power."""


def balanced(n0: int, classes: int) -> Sizes:
    """Return equal sizes for all classes."""
    return np.full(classes, n0, dtype=np.int64)


def long_tail(n0: int, classes: int, ratio: float) -> Sizes:
    """Return sizes that fall exponentially from n₀ to n₀ / ratio.

    Args:
        n0: images of class 0.
        classes: number of classes, K, at least 2.
        ratio: n₀ divided by the size of the rarest class, at least 1.

    Returns:
        Sizes (K,) int64.

    Raises:
        ValueError: the rarest class would have no image.
    """
    return _rounded(n0 * float(ratio) ** (-np.arange(classes) / (classes - 1)))


def step(n0: int, classes: int, ratio: float) -> Sizes:
    """Return n₀ for the first half of the classes and n₀ / ratio for the others, with the arguments of `long_tail`."""
    return _rounded(np.where(np.arange(classes) < classes / 2, n0, n0 / ratio))


def _rounded(sizes: NDArray[np.float64]) -> Sizes:
    whole: Sizes = np.floor(sizes + ROUNDING).astype(np.int64)
    if whole.min() < 1:
        raise ValueError(
            f"the rarest class would have no image ({sizes.min():.2f}); pass a larger n0 or a smaller ratio"
        )
    return whole


def subsample(y: Labels, sizes: Sizes, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw a given number of images of each class.

    Args:
        y: (N,) int64, labels of all training images.
        sizes: (K,) int64, number of images to draw.
        generator: draws the images.

    Returns:
        Sorted indices into `y` without repetition, (sum of the sizes,) int64.

    Raises:
        ValueError: a class has too few images.
    """
    counts = np.bincount(y, minlength=len(sizes))
    if len(counts) > len(sizes) or (counts < sizes).any():
        raise ValueError(f"sizes {sizes.tolist()} cannot be drawn from classes of {counts.tolist()} images")
    members = (np.flatnonzero(y == label) for label in range(len(sizes)))
    drawn = [generator.choice(group, size, replace=False) for group, size in zip(members, sizes, strict=True)]
    return np.sort(np.concatenate(drawn))


def training_rows(name: str, y: Labels, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the sorted rows of the training images that a profile keeps; n₀ is the size of the smallest class.

    Args:
        name: name in `PROFILES`.
        y: (N,) int64, labels of all training images.
        generator: draws the images. `balanced` keeps all rows without a draw.
    """
    if name == "balanced":
        return np.arange(len(y))
    counts = np.bincount(y)
    return subsample(y, PROFILES[name](int(counts.min()), len(counts)), generator)


PROFILES: dict[str, Profile] = {
    "balanced": balanced,
    "LT-100": partial(long_tail, ratio=100),
    "LT-10": partial(long_tail, ratio=10),
    "step-100": partial(step, ratio=100),
    "step-10": partial(step, ratio=10),
}
