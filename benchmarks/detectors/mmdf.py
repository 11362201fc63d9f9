"""mmguard's own test (MMDF; section 3.1 of the paper), as the guard runs it."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from benchmarks.cifar import Images
from benchmarks.detectors.protocol import Judge, Verdicts
from benchmarks.guarded import calibrated, decide
from benchmarks.suspect import CleanSet, Suspect

SMALLEST = 1e-300
"""P-values of 0 have no finite score, and neither have those of 1, which occur with ranks."""


@dataclass(frozen=True)
class Mmdf:
    """The guard's p-value and its flags, at its own θ.

    Attributes:
        preset: `--preset` of `mmguard calibrate`.
        rounds: `--rounds` of `mmguard calibrate`; None uses the preset's.
        per_class: clean images per class.
        forwards: forward passes per input, through the original and the clipped network.
    """

    preset: str = "default"
    rounds: int | None = None
    per_class: int = 50
    forwards: float = 2

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Calibrate a guard. Scores are p-values converted to standard deviations; larger is more suspicious."""
        guard, notes = calibrated(suspect, clean, self.preset, self.rounds, seed)

        def verdicts(x: Images) -> Verdicts:
            decision = decide(guard, x)
            finite = np.clip(decision.p_values, SMALLEST, np.nextafter(1, 0))
            return Verdicts(-ndtri(finite), decision.flagged)

        return Judge(verdicts, notes)
