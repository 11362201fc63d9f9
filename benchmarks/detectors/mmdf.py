"""mmguard's own test (MMDF; the paper's section 3.1), as the guard runs it."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from benchmarks.cifar import Images
from benchmarks.detectors.protocol import Judge, Verdicts
from benchmarks.guarded import calibrated, decide
from benchmarks.suspect import CleanSet, Suspect

SMALLEST = 1e-300
"""A p-value of 0 has no score, nor has one of 1, which ranks give."""


@dataclass(frozen=True)
class Mmdf:
    """The p-value of the original and the clipped network; flagged as the guard flags, at its own θ.

    Attributes:
        preset, rounds: of `mmguard calibrate`.
        forwards: the original and the clipped network.
    """

    preset: str = "default"
    rounds: int | None = None
    per_class: int = 50
    forwards: float = 2

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Calibrate a guard; scores are p-values as standard deviations of a Gaussian, larger is more suspicious."""
        guard, notes = calibrated(suspect, clean, self.preset, self.rounds, seed)

        def verdicts(x: Images) -> Verdicts:
            decision = decide(guard, x)
            finite = np.clip(decision.p_values, SMALLEST, np.nextafter(1, 0))
            return Verdicts(-ndtri(finite), decision.flagged)

        return Judge(verdicts, notes)
