"""Measure how far the activations of an input are from those of the nearest class, in units of their spread.

Lee, Lee, Lee and Shin 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks" (NeurIPS).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cifar import Images, Labels
from benchmarks.detectors.activations import Tracer, is_relu
from benchmarks.detectors.judging import Rows, Scores, flag_above, held_out
from benchmarks.detectors.protocol import THETA, Judge
from benchmarks.metrics import threshold_at
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect

PUBLISHED = Published(
    source="Lee et al. 2018, Table 2; they did not test backdoors",
    setting="CIFAR-10, ResNet-34, SVHN images to be told from CIFAR-10, all training images, weights fitted to SVHN",
    figures={"auroc": 0.991},
    from_memory=True,
)

BATCH = 250
"""Images whose activations are kept at a time."""
RANK = 1e-9
"""Variances below this share of the largest count as zero."""

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Mahalanobis:
    """The sum over layers of the squared Mahalanobis distance to the nearest class mean; larger is more suspicious.

    Source: Lee et al. 2018, equations 1 and 2 and section 2.2: a layer's features are the means of its channels, and
    each class has a normal distribution with its own mean and the covariance that all classes share.

    Adapted: they weight the layers by a logistic regression on samples to be detected, which a defender does not have;
    here all weights are 1. For the same reason, their input pre-processing is left out, whose step they choose on such
    samples. Layers are all ReLUs; theirs are the ends of the residual stages. If the covariance is singular, its
    pseudo-inverse is used, so that directions without variance in D do not count. The threshold is the 1 - theta
    quantile of the scores of D, each computed with the four fifths of D that exclude it.

    Attributes:
        theta: share of clean inputs that may be flagged, in (0, 1).
        per_class: clean images per class; theirs were all training images.
        forwards: forward passes per input: only the classification.
    """

    theta: float = THETA
    per_class: int = 50
    forwards: float = 1

    def fit(self, suspect: Suspect, clean: CleanSet, seed: int) -> Judge:
        """Fit the distributions to D with its labels; `seed` is not used. Scores are squared and without unit."""
        tracer = Tracer(suspect, is_relu)
        own = channel_means(tracer, clean.x)
        layers = [ClassGaussians(features, clean.y) for features in own]

        def score(x: Images) -> Scores:
            return _total(layers, channel_means(tracer, x))

        def score_rest(fitted: Rows, others: Rows) -> Scores:
            parts = [ClassGaussians(features[fitted], clean.y[fitted]) for features in own]
            return _total(parts, [features[others] for features in own])

        return flag_above(score, threshold_at(held_out(score_rest, clean.y), self.theta))


class ClassGaussians:
    """Normal distributions of the classes, with one covariance (equation 1)."""

    def __init__(self, features: Features, y: Labels) -> None:
        """Fit to features (n, C) of images with labels y (n,)."""
        self._means = np.array([features[y == label].mean(axis=0) for label in np.unique(y)])
        centred = features - self._means[np.unique(y, return_inverse=True)[1]]
        self._precision = np.linalg.pinv(centred.T @ centred / len(y), rcond=RANK, hermitian=True)

    def distances(self, features: Features) -> Scores:
        """Return the squared Mahalanobis distance of features (N, C) to the nearest mean, (N,) float64 (equation 2)."""
        offsets = features[:, None] - self._means
        distances: Scores = np.einsum("nkc,cd,nkd->nk", offsets, self._precision, offsets, optimize=True).min(axis=1)
        return distances


def channel_means(tracer: Tracer, x: Images) -> list[Features]:
    """Return the mean of each channel over the places of the image, (N, C) float64 for each layer."""
    batches = (tracer(x[first : first + BATCH]).layers for first in range(0, len(x), BATCH))
    means = [[layer.mean(dim=(2, 3)) for layer in layers] for layers in batches]
    return [torch.cat(parts).double().cpu().numpy() for parts in zip(*means, strict=True)]


def _total(layers: list[ClassGaussians], features: list[Features]) -> Scores:
    total: Scores = np.sum([each.distances(part) for each, part in zip(layers, features, strict=True)], axis=0)
    return total
