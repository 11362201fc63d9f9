"""Two baselines that read the original network's own output and cost nothing beside it.

A backdoored input is often decided with greater confidence than a clean one, so here confidence is what is suspicious.
That is the other direction from the detection of errors and of inputs from elsewhere, where a lack of it is. The
direction is fixed, and neither turned nor tuned on triggered data: where an attack keeps confidence low, these
baselines fall below chance, and should.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from benchmarks.cifar import Images
from benchmarks.detectors.judging import Scores, flag_above, in_batches
from benchmarks.detectors.protocol import THETA, Judge
from benchmarks.metrics import threshold_at
from benchmarks.suspect import CleanSet, Suspect
from mmguard.detection.margins import margin


@dataclass(frozen=True)
class MaxSoftmax:
    """The greatest softmax probability; larger is more suspicious.

    Source: the statistic of Hendrycks and Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution
    examples in neural networks", with the direction reversed (see the module). Adapted: they set no threshold; here it
    is the empirical 1 - theta quantile of the scores of D. Probabilities are taken in float64: in float32 those above
    1 - 6e-8 are all 1, and confident inputs could not be told apart.

    Attributes:
        theta: share of clean inputs that may be flagged, in (0, 1).
        per_class: clean images of each class, for the threshold; they used none, this is mmguard's own number.
        forwards: the one that classifies.
    """

    theta: float = THETA
    per_class: int = 50
    forwards: float = 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """The threshold from D; `seed` is not used. Scores are probabilities, in [1 / K, 1]."""

        def score(x: Images) -> Scores:
            greatest: Scores = softmax(suspect.logits(x).astype(np.float64), axis=1).max(axis=1)
            return greatest

        return flag_above(score, threshold_at(in_batches(score, clean.x), self.theta))


@dataclass(frozen=True)
class OriginalMargin:
    """The margin of the original network's decision: its logit minus the best other; larger is more suspicious.

    Source: the first term alone of the margin gap that mmguard tests (`mmguard.detection.margins.margin_gap`). What
    MMDF finds beyond this baseline is owed to the clipped network. The threshold is the empirical 1 - theta quantile of the
    scores of D.

    Attributes:
        theta: share of clean inputs that may be flagged, in (0, 1).
        per_class: clean images of each class, for the threshold, as MMDF has.
        forwards: the one that classifies.
    """

    theta: float = THETA
    per_class: int = 50
    forwards: float = 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """The threshold from D; `seed` is not used. Scores are in logits, at least 0."""

        def score(x: Images) -> Scores:
            logits = suspect.logits(x)
            return margin(logits, logits.argmax(axis=1))

        return flag_above(score, threshold_at(in_batches(score, clean.x), self.theta))
