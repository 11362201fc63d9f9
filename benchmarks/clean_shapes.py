"""Simulate clean logits of an original and a clipped network in many ways, for which a null must hold."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float64]
Pair = tuple[Logits, Logits]
"""Logits (n, K) of the original and the clipped network for the same inputs."""
Shape = Callable[[np.random.Generator, int], Pair]

CLASSES = 10
KEPT, NOISE = 0.85, 0.3
"""Share of a logit that clipping keeps, and standard deviation in logits of its remaining effect (the noise)."""


def gaussian(generator: np.random.Generator, n: int) -> Pair:
    """Noise is Gaussian, with the same size for every input."""
    original = _original(generator, n)
    return original, _clipped(original, generator.normal(size=original.shape))


def student(generator: np.random.Generator, n: int) -> Pair:
    """Noise varies in size, so that the change of each logit follows a t distribution with 3 degrees of freedom."""
    original = _original(generator, n)
    sizes = 1 / np.sqrt(generator.chisquare(3, (n, 1)) / 3)
    return original, _clipped(original, sizes * generator.normal(size=original.shape))


def untouched(generator: np.random.Generator, n: int) -> Pair:
    """Bounds leave 80 % of the inputs unchanged, and reduce the confidence of the others."""
    original, clipped = gaussian(generator, n)
    clipped[np.arange(n), original.argmax(axis=1)] -= generator.gamma(2, 1, n)
    rows = generator.random(n) < 0.8
    clipped[rows] = original[rows]
    return original, clipped


def one_class(generator: np.random.Generator, n: int) -> Pair:
    """90 % of the inputs are of one class, and clipping reduces the confidence of the other classes more."""
    original = _original(generator, n, np.array([0.9] + [0.1 / (CLASSES - 1)] * (CLASSES - 1)))
    clipped, decisions = _clipped(original, generator.normal(size=original.shape)), original.argmax(axis=1)
    clipped[np.arange(n), decisions] -= np.linspace(0, 4, CLASSES)[decisions] * generator.gamma(4, 0.25, n)
    return original, clipped


def skewed(generator: np.random.Generator, n: int) -> Pair:
    """Noise has a log-normal size."""
    original = _original(generator, n)
    sizes = np.exp(generator.normal(size=(n, 1)))
    return original, _clipped(original, sizes * generator.normal(size=original.shape))


def outliers(generator: np.random.Generator, n: int) -> Pair:
    """Noise is ten times as large for 2 % of the inputs."""
    original = _original(generator, n)
    sizes = np.where(generator.random((n, 1)) < 0.02, 10, 1)
    return original, _clipped(original, sizes * generator.normal(size=original.shape))


def many_classes(generator: np.random.Generator, n: int) -> Pair:
    """There are 100 classes, most of them with at most one clean input."""
    original = _original(generator, n, np.full(100, 0.01))
    return original, _clipped(original, generator.normal(size=original.shape))


def with_margin(generator: np.random.Generator, n: int) -> Pair:
    """Noise grows with the margin of the original network."""
    original = _original(generator, n)
    runner_up, best = np.sort(original, axis=1)[:, -2:].T
    return original, _clipped(original, (1 + best - runner_up)[:, None] * generator.normal(size=original.shape))


def rounded(generator: np.random.Generator, n: int) -> Pair:
    """Logits are multiples of 0.5, like those of a network with few bits, so that scores have ties."""
    original, clipped = gaussian(generator, n)
    return np.round(2 * original) / 2, np.round(2 * clipped) / 2


SHAPES: dict[str, Shape] = {
    "Gaussian": gaussian,
    "t with 3 degrees": student,
    "80 % of inputs untouched by bounds": untouched,
    "90 % of one class": one_class,
    "log-normal": skewed,
    "2 % outliers of ten times the size": outliers,
    "100 classes": many_classes,
    "growing with the margin": with_margin,
    "rounded to halves": rounded,
}


def _original(generator: np.random.Generator, n: int, shares: npt.NDArray[np.float64] | None = None) -> Logits:
    """Draw logits of unit noise plus a gamma of mean 6 for the true class, drawn by `shares` (None: uniformly)."""
    classes = CLASSES if shares is None else len(shares)
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), generator.choice(classes, n, p=shares)] += generator.gamma(4, 1.5, n)
    return logits


def _clipped(original: Logits, noise: Logits) -> Logits:
    """Shrink each logit, shift it by class and add noise."""
    moved = np.linspace(-0.5, 0.5, original.shape[1])
    clipped: Logits = KEPT * original + moved + NOISE * noise
    return clipped
