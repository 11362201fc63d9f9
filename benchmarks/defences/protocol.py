"""What a mitigation is to the tables: it takes a network and a few clean images, and answers in its place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from benchmarks.cifar import Images, Labels
from benchmarks.suspect import CleanSet, Suspect


@dataclass(frozen=True)
class Mitigated:
    """A network after a defence.

    Attributes:
        labels: decisions (N,) int64 for images (N, 32, 32, 3) uint8.
        notes: what the defence found on its way, ready for JSON, such as the class that it took for the target.
    """

    labels: Callable[[Images], Labels]
    notes: dict[str, object] = field(default_factory=dict)


class Defence(Protocol):
    """A post-training mitigation: a frozen dataclass whose fields are the settings of its paper."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def per_class(self) -> int:
        """Clean images of each class that its paper, or the table to compare with, gave it on CIFAR-10."""
        ...

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """The defended network; `suspect` is left as it is, and two calls with one seed agree but for rounding."""
        ...
