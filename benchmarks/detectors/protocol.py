"""What an input detector is to the tables: fitted on a few clean images, it scores inputs one by one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar import Images
from benchmarks.suspect import CleanSet, Suspect

THETA = 0.005
"""Nominal false-positive rate of every detector that can be asked for one."""


@dataclass(frozen=True)
class Verdicts:
    """On a batch of inputs.

    Attributes:
        scores: (N,) float64; larger is more suspicious.
        flagged: (N,) bool, by the detector's own rule, at THETA where it takes a false-positive rate.
    """

    scores: NDArray[np.float64]
    flagged: NDArray[np.bool_]


@dataclass(frozen=True)
class Judge:
    """A fitted detector.

    Attributes:
        verdicts: takes images (N, 32, 32, 3) uint8.
        notes: what fitting found on its way, ready for JSON.
    """

    verdicts: Callable[[Images], Verdicts]
    notes: dict[str, object] = field(default_factory=dict)


class Detector(Protocol):
    """An inference-time detector: a frozen dataclass whose fields are the settings of its paper."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def per_class(self) -> int:
        """Clean images of each class that its paper gave it on CIFAR-10; 0 where it needs none."""
        ...

    @property
    def forwards(self) -> float:
        """Forward passes that one input costs, the one that classifies it among them."""
        ...

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """A judge of inputs; `suspect` is left as it is, and two calls with one seed agree but for rounding."""
        ...
