"""Judges made of a score and a threshold."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar import Images
from benchmarks.detectors.protocol import Judge, Verdicts

BATCH = 500

Scores = NDArray[np.float64]
Score = Callable[[Images], Scores]
"""Images (N, 32, 32, 3) uint8, N >= 1 -> (N,) float64, larger is more suspicious; each from its own image alone."""


def in_batches(score: Score, x: Images) -> Scores:
    """The scores of any number of images, none included: (N, 32, 32, 3) uint8 -> (N,) float64.

    The score is asked for 500 images at a time, so that memory stays bounded however many copies it makes of each.
    """
    parts = [score(np.ascontiguousarray(x[first : first + BATCH])) for first in range(0, len(x), BATCH)]
    return np.concatenate([np.empty(0), *parts])


def flag_above(score: Score, threshold: float) -> Judge:
    """A judge that flags every image whose score is greater than the threshold."""

    def verdicts(x: Images) -> Verdicts:
        scores = in_batches(score, x)
        return Verdicts(scores, scores > threshold)

    return Judge(verdicts)
