"""Two baselines that only read the output of the original network, and so cost nothing.

A network often classifies triggered inputs with more confidence than clean ones, so here high confidence is suspicious.
The detection of errors and of out-of-distribution inputs is the opposite: there, low confidence is suspicious. The
direction is fixed and not tuned on triggered data: if an attack keeps confidence low, these baselines rightly fall
below chance.
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
    """The largest softmax probability; larger is more suspicious.

    Source: the statistic of Hendrycks and Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution
    examples in neural networks", with the direction reversed (see the module). Adapted: they set no threshold; here it
    is the empirical 1 - theta quantile of the scores on D. Probabilities are float64, because in float32 all those
    above 1 - 6e-8 are 1, and confident inputs could not be told apart.

    Attributes:
        theta: share of clean inputs that may be flagged, in (0, 1).
        per_class: clean images per class, for the threshold; they used none, so this is mmguard's number.
        forwards: forward passes per input: only the classification.
    """

    theta: float = THETA
    per_class: int = 50
    forwards: float = 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Set the threshold on the calibration set; `seed` is not used. Scores are probabilities in [1 / K, 1]."""

        def score(x: Images) -> Scores:
            greatest: Scores = softmax(suspect.logits(x).astype(np.float64), axis=1).max(axis=1)
            return greatest

        return flag_above(score, threshold_at(in_batches(score, clean.x), self.theta))


@dataclass(frozen=True)
class OriginalMargin:
    """The margin of the original network's decision: its logit minus the best other; larger is more suspicious.

    Source: the first term alone of the margin gap that mmguard tests (`mmguard.detection.margins.margin_gap`). What
    MMDF finds beyond this baseline is owed to the clipped network. The threshold is the empirical 1 - theta quantile of
    the scores of D.

    Attributes:
        theta: share of clean inputs that may be flagged, in (0, 1).
        per_class: clean images per class for the threshold, as for MMDF.
        forwards: forward passes per input: only the classification.
    """

    theta: float = THETA
    per_class: int = 50
    forwards: float = 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Set the threshold on the calibration set; `seed` is not used. Scores are margins in logits, at least 0."""

        def score(x: Images) -> Scores:
            logits = suspect.logits(x)
            return margin(logits, logits.argmax(axis=1))

        return flag_above(score, threshold_at(in_batches(score, clean.x), self.theta))
