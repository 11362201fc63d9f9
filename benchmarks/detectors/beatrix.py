"""Compare the correlations of an input's features with those of clean images of its class.

Ma, Wang, Sun, Xue, Wen and Xiang 2023, "The 'Beatrix' resurrections: robust backdoor detection via Gram matrices"
(NDSS).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cifar import Images, Labels
from benchmarks.detectors.activations import Tracer, is_relu
from benchmarks.detectors.judging import Rows, Scores, flag_above, held_out
from benchmarks.detectors.protocol import THETA, Judge
from benchmarks.metrics import threshold_at
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect

PUBLISHED = Published(
    source="Ma et al. 2023, abstract; they report no AUROC of single inputs",
    setting="detection of dynamic backdoors",
    figures={"f1": 0.911},
    from_memory=False,
)

BATCH = 250
"""Images whose activations are kept at a time."""

Grams = NDArray[np.float32]


@dataclass(frozen=True)
class Beatrix:
    """The summed deviation of an input's Gram features from the range of its class in D; larger is more suspicious.

    Source: Ma et al. 2023, section 4: the Gram feature of order p of two channels is the p-th root of the sum over
    places of the product of their p-th powers. The range of a feature is its median over the clean images of a class,
    plus and minus `spread` median absolute deviations; the deviation of a value outside of the range is its distance to
    the range, divided by the size of the nearer end (Sastry and Oore 2020, "Detecting out-of-distribution examples with
    Gram matrices"). An input is compared with the class that the network decides on.

    Adapted: the layer is the last ReLU, before the pooling. The end of a range that is 0 would make any deviation
    infinite, so sizes below `floor` times the mean of the feature's order over D are replaced by that. The threshold
    is the 1 - theta quantile of the scores of D, each computed with the four fifths of D that exclude it. The second
    step of their method, which finds the target class from many inputs, is not needed to judge an input.

    Attributes:
        orders: the powers p.
        spread: half the width of a range, in median absolute deviations.
        floor: least size of an end of a range, relative to the order's mean.
        theta: share of clean inputs that may be flagged, in (0, 1).
        per_class: clean images per class, as in their paper.
        forwards: forward passes per input: only the classification.
    """

    orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    spread: float = 10
    floor: float = 1e-2
    theta: float = THETA
    per_class: int = 30
    forwards: float = 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Find the ranges of each class in D with its labels; `seed` is not used. Scores are at least 0."""
        tracer = Tracer(suspect, is_relu)
        own, decided = grams(tracer, clean.x, self.orders)
        ranges = self._ranges(own, clean.y)

        def score(x: Images) -> Scores:
            return deviations(ranges, *grams(tracer, x, self.orders))

        def score_rest(fitted: Rows, others: Rows) -> Scores:
            return deviations(self._ranges(own[fitted], clean.y[fitted]), own[others], decided[others])

        return flag_above(score, threshold_at(held_out(score_rest, clean.y), self.theta))

    def _ranges(self, features: Grams, y: Labels) -> dict[int, "Range"]:
        least = self.floor * features.mean(axis=(0, 2), keepdims=True)[0]
        return {int(label): Range.of(features[y == label], self.spread, least) for label in np.unique(y)}


@dataclass(frozen=True)
class Range:
    """The range of each Gram feature of a class: its ends and their sizes, (P, F) float32 each."""

    low: Grams
    high: Grams
    low_size: Grams
    high_size: Grams

    @classmethod
    def of(cls, features: Grams, spread: float, least: Grams) -> "Range":
        """Take the median plus and minus `spread` median absolute deviations of features (n, P, F)."""
        median = np.median(features, axis=0)
        width = spread * np.median(np.abs(features - median), axis=0)
        low, high = median - width, median + width
        return cls(low, high, np.maximum(np.abs(low), least), np.maximum(np.abs(high), least))

    def deviations(self, features: Grams) -> Scores:
        """Sum the relative distances of features (N, P, F) to the range: (N,) float64, at least 0."""
        below = np.maximum(self.low - features, 0) / self.low_size
        above = np.maximum(features - self.high, 0) / self.high_size
        total: Scores = (below + above).sum(axis=(1, 2), dtype=np.float64)
        return total


def grams(tracer: Tracer, x: Images, orders: tuple[int, ...]) -> tuple[Grams, Labels]:
    """Return the Gram features of the last layer, (N, P, C * (C + 1) / 2) float32, and the decisions (N,) int64."""
    traces = (tracer(x[first : first + BATCH]) for first in range(0, len(x), BATCH))
    parts = [(gram_features(trace.layers[-1], orders), trace.labels) for trace in traces]
    return np.concatenate([features for features, _ in parts]), np.concatenate([labels for _, labels in parts])


def gram_features(layer: Tensor, orders: tuple[int, ...]) -> Grams:
    """Return the Gram features of activations (N, C, H, W), at least 0, for each order and pair of channels."""
    maps = layer.flatten(2)
    rows, columns = torch.triu_indices(maps.shape[1], maps.shape[1])
    powers = (maps**order for order in orders)
    roots = [(each @ each.mT)[:, rows, columns] ** (1 / order) for each, order in zip(powers, orders, strict=True)]
    features: Grams = torch.stack(roots, dim=1).cpu().numpy()
    return features


def deviations(ranges: dict[int, Range], features: Grams, labels: Labels) -> Scores:
    """Return the deviation (N,) of features (N, P, F) from the range of the class that each is decided as."""
    scores: Scores = np.zeros(len(labels))
    for label in np.unique(labels):
        rows = labels == label
        scores[rows] = ranges[int(label)].deviations(features[rows])
    return scores
