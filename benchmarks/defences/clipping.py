"""What mmguard makes of a network: the clipped network alone (MMAC), and the test on both networks (MMDF).

The paper's section 3.1, as `mmguard` has it: bounds and null are learnt by the public command.
"""

from dataclasses import dataclass

from benchmarks.defences.protocol import Mitigated
from benchmarks.guarded import calibrated, decide
from benchmarks.suspect import CleanSet, Suspect


@dataclass(frozen=True)
class Mmac:
    """The clipped network answers.

    Attributes:
        preset, rounds: of `mmguard calibrate`.
    """

    preset: str = "default"
    rounds: int | None = None
    per_class: int = 50

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Calibrate, and take the clipped network."""
        guard, notes = calibrated(suspect, clean, self.preset, self.rounds, seed)
        return Mitigated(lambda x: decide(guard, x).clipped_labels, notes)


@dataclass(frozen=True)
class Mmdf(Mmac):
    """The guard answers: the original's label where nothing is flagged, else the corrected one."""

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Calibrate, and take the guard under its default policy."""
        guard, notes = calibrated(suspect, clean, self.preset, self.rounds, seed)
        return Mitigated(lambda x: decide(guard, x).labels, notes)
