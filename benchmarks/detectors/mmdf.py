"""mmguard's own test (MMDF; the paper's section 3.1), as the guard runs it."""

from dataclasses import dataclass

from benchmarks.cifar import Images
from benchmarks.detectors.protocol import Judge, Verdicts
from benchmarks.guarded import calibrated, decide
from benchmarks.suspect import CleanSet, Suspect


@dataclass(frozen=True)
class Mmdf:
    """The margin gap between the original and the clipped network; flagged as the guard flags, at its own θ.

    Attributes:
        preset, rounds: of `mmguard calibrate`.
        forwards: the original and the clipped network.
    """

    preset: str = "default"
    rounds: int | None = None
    per_class: int = 50
    forwards: float = 2

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Calibrate a guard; scores are margin gaps in logits, larger is more suspicious."""
        guard, notes = calibrated(suspect, clean, self.preset, self.rounds, seed)

        def verdicts(x: Images) -> Verdicts:
            decision = decide(guard, x)
            return Verdicts(decision.margin_gaps, decision.flagged)

        return Judge(verdicts, notes)
