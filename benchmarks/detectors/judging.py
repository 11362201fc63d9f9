"""Make judges from a score and a threshold."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.cifar import Images, Labels
from benchmarks.detectors.protocol import Judge, Verdicts

BATCH = 500

Scores = NDArray[np.float64]
Score = Callable[[Images], Scores]
"""Maps images (N, 32, 32, 3) uint8, N >= 1, one by one to scores (N,) float64; larger is more suspicious."""

Rows = NDArray[np.bool_]
"""Marks images of D, (n,) bool."""
FOLDS = 5


def in_batches(score: Score, x: Images) -> Scores:
    """Score any number of images, even none: (N, 32, 32, 3) uint8 -> (N,) float64.

    Images are scored 500 at a time, so that memory stays bounded if the score copies each image many times.
    """
    parts = [score(np.ascontiguousarray(x[first : first + BATCH])) for first in range(0, len(x), BATCH)]
    return np.concatenate([np.empty(0), *parts])


def flag_above(score: Score, threshold: float) -> Judge:
    """Return a judge that flags images with a score above the threshold."""

    def verdicts(x: Images) -> Verdicts:
        scores = in_batches(score, x)
        return Verdicts(scores, scores > threshold)

    return Judge(verdicts)


def held_out(score_rest: Callable[[Rows, Rows], Scores], y: Labels) -> Scores:
    """Score each image of D with a detector that is fitted to the other four fifths of D.

    Scores of the images that a detector is fitted to are too low for a threshold.

    Args:
        score_rest: fits to the images that its first argument marks, and scores those that its second marks.
        y: labels of D, (n,) int64. Each class is spread evenly over the fifths.

    Returns:
        The scores, (n,) float64.
    """
    fold = np.empty(len(y), np.int64)
    fold[np.argsort(y, kind="stable")] = np.arange(len(y)) % FOLDS
    scores = np.empty(len(y))
    for each in range(FOLDS):
        scores[fold == each] = score_rest(fold != each, fold == each)
    return scores
