"""The interface of a mitigation, which takes a network and a few clean images and answers in its place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from benchmarks.cifar import Images, Labels
from benchmarks.suspect import CleanSet, Suspect


@dataclass(frozen=True)
class Mitigated:
    """A network after a defence.

    Attributes:
        labels: returns decisions (N,) int64 on images (N, 32, 32, 3) uint8.
        notes: findings of the defence, ready for JSON, such as the class that it takes for the target.
    """

    labels: Callable[[Images], Labels]
    notes: dict[str, object] = field(default_factory=dict)


class Defence(Protocol):
    """A post-training mitigation: a frozen dataclass with the settings of its paper as fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def per_class(self) -> int:
        """Clean images per class on CIFAR-10 in its paper, or in the table that we compare with."""
        ...

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Return the defended network. Does not change `suspect`; equal seeds give equal results, up to rounding."""
        ...
