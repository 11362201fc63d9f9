"""mmguard's own test (MMDF; the paper's section 3.1), as the guard runs it."""

from dataclasses import dataclass

from benchmarks.cifar import Images
from benchmarks.detectors.protocol import Judge, Verdicts
from benchmarks.guarded import bundle_of, decide
from benchmarks.suspect import CleanSet, Suspect
from mmguard import Guard


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
        guard = Guard(bundle_of(suspect, clean, self.preset, self.rounds, seed), registry=None)

        def judge(x: Images) -> Verdicts:
            decision = decide(guard, x)
            return Verdicts(decision.margin_gaps, decision.flagged)

        return judge
