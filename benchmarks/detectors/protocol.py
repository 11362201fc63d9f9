"""The interface of an input detector, which is fitted on a few clean images and scores inputs one by one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar import Images
from benchmarks.suspect import CleanSet, Suspect

THETA = 0.005
"""False-positive rate to which every detector is set that accepts one."""


@dataclass(frozen=True)
class Verdicts:
    """Scores and flags of a batch of inputs.

    Attributes:
        scores: (N,) float64; larger is more suspicious.
        flagged: (N,) bool, by the detector's own rule, at THETA if it accepts a false-positive rate.
    """

    scores: NDArray[np.float64]
    flagged: NDArray[np.bool_]


@dataclass(frozen=True)
class Judge:
    """A fitted detector.

    Attributes:
        verdicts: judges images (N, 32, 32, 3) uint8.
        notes: findings of the fit, ready for JSON.
    """

    verdicts: Callable[[Images], Verdicts]
    notes: dict[str, object] = field(default_factory=dict)


class Detector(Protocol):
    """An inference-time detector: a frozen dataclass with the settings of its paper as fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def per_class(self) -> int:
        """Clean images per class on CIFAR-10 in its paper; 0 if it needs none."""
        ...

    @property
    def forwards(self) -> float:
        """Forward passes per input, including the one that classifies it."""
        ...

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Return a fitted judge. Does not change `suspect`; equal seeds give equal results, up to rounding."""
        ...
