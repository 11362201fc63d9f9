"""No defence, the row that all others are compared with."""

from dataclasses import dataclass

from benchmarks.defences.protocol import Mitigated
from benchmarks.suspect import CleanSet, Suspect


@dataclass(frozen=True)
class Without:
    """The unchanged network."""

    per_class: int = 0

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Return the network's own decisions."""
        return Mitigated(suspect.exported.labels)
