"""No defence: the row that every other is compared with."""

from dataclasses import dataclass

from benchmarks.defences.protocol import Mitigated
from benchmarks.suspect import CleanSet, Suspect


@dataclass(frozen=True)
class Without:
    """The network as it is."""

    per_class: int = 0

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """The network's own decisions."""
        return Mitigated(suspect.exported.labels)
