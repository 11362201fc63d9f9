"""mmguard's own defences: the clipped network alone (MMAC), and the test with both networks (MMDF).

Section 3.1 of the paper; `mmguard calibrate` learns the bounds and the null.
"""

from dataclasses import dataclass

from benchmarks.defences.protocol import Mitigated
from benchmarks.guarded import calibrated, decide
from benchmarks.suspect import CleanSet, Suspect


@dataclass(frozen=True)
class Mmac:
    """MMAC: the clipped network answers.

    Attributes:
        preset: `--preset` of `mmguard calibrate`.
        rounds: `--rounds` of `mmguard calibrate`; None uses the preset's.
        per_class: clean images per class.
    """

    preset: str = "default"
    rounds: int | None = None
    per_class: int = 50

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Calibrate, and answer with the clipped network."""
        guard, notes = calibrated(suspect, clean, self.preset, self.rounds, seed)
        return Mitigated(lambda x: decide(guard, x).clipped_labels, notes)


@dataclass(frozen=True)
class Mmdf(Mmac):
    """MMDF: the guard answers with the original label, or with the corrected label if it flags the input."""

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Calibrate, and answer with the guard under its default policy."""
        guard, notes = calibrated(suspect, clean, self.preset, self.rounds, seed)
        return Mitigated(lambda x: decide(guard, x).labels, notes)
