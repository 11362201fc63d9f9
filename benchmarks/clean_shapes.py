"""Clean logits of many shapes, as a network and its clipped network might give them: what a null must hold for."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float64]
Pair = tuple[Logits, Logits]
"""Logits (n, K) of the original and of the clipped network on the same inputs."""
Shape = Callable[[np.random.Generator, int], Pair]

CLASSES = 10
KEPT, NOISE = 0.85, 0.3
"""Share of a logit that clipping keeps, and the standard deviation of what it does beside that, in logits."""


def gaussian(generator: np.random.Generator, n: int) -> Pair:
    """What clipping does beyond a line is Gaussian, the same for every input."""
    original = _original(generator, n)
    return original, _clipped(original, generator.normal(size=original.shape))


def student(generator: np.random.Generator, n: int) -> Pair:
    """Its size varies, so that each logit's change follows a t with 3 degrees of freedom."""
    original = _original(generator, n)
    sizes = 1 / np.sqrt(generator.chisquare(3, (n, 1)) / 3)
    return original, _clipped(original, sizes * generator.normal(size=original.shape))


def untouched(generator: np.random.Generator, n: int) -> Pair:
    """Bounds leave 80 % of the inputs as they are, and take confidence from the others."""
    original, clipped = gaussian(generator, n)
    clipped[np.arange(n), original.argmax(axis=1)] -= generator.gamma(2, 1, n)
    rows = generator.random(n) < 0.8
    clipped[rows] = original[rows]
    return original, clipped


def one_class(generator: np.random.Generator, n: int) -> Pair:
    """90 % of the inputs are of one class, and clipping takes more from the others."""
    original = _original(generator, n, np.array([0.9] + [0.1 / (CLASSES - 1)] * (CLASSES - 1)))
    clipped, decisions = _clipped(original, generator.normal(size=original.shape)), original.argmax(axis=1)
    clipped[np.arange(n), decisions] -= np.linspace(0, 4, CLASSES)[decisions] * generator.gamma(4, 0.25, n)
    return original, clipped


def skewed(generator: np.random.Generator, n: int) -> Pair:
    """Its size is log-normal."""
    original = _original(generator, n)
    sizes = np.exp(generator.normal(size=(n, 1)))
    return original, _clipped(original, sizes * generator.normal(size=original.shape))


def outliers(generator: np.random.Generator, n: int) -> Pair:
    """It is ten times as large on 2 % of the inputs."""
    original = _original(generator, n)
    sizes = np.where(generator.random((n, 1)) < 0.02, 10, 1)
    return original, _clipped(original, sizes * generator.normal(size=original.shape))


def many_classes(generator: np.random.Generator, n: int) -> Pair:
    """100 classes, so that most have one clean input or none."""
    original = _original(generator, n, np.full(100, 0.01))
    return original, _clipped(original, generator.normal(size=original.shape))


def with_margin(generator: np.random.Generator, n: int) -> Pair:
    """It grows with the original's margin."""
    original = _original(generator, n)
    runner_up, best = np.sort(original, axis=1)[:, -2:].T
    return original, _clipped(original, (1 + best - runner_up)[:, None] * generator.normal(size=original.shape))


def rounded(generator: np.random.Generator, n: int) -> Pair:
    """Logits come in steps of a half, as of a network of few bits, so that scores are tied."""
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
    """Logits of unit noise, raised for one class by a gamma of mean 6; classes by their shares, equal if None."""
    classes = CLASSES if shares is None else len(shares)
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), generator.choice(classes, n, p=shares)] += generator.gamma(4, 1.5, n)
    return logits


def _clipped(original: Logits, noise: Logits) -> Logits:
    """Less of each logit, moved by class, and noise."""
    moved = np.linspace(-0.5, 0.5, original.shape[1])
    clipped: Logits = KEPT * original + moved + NOISE * noise
    return clipped
