"""Distances of the original network's activations from those of clean inputs with the same decision.

The distance is that of Lee et al. 2018 ("A simple unified framework for detecting out-of-distribution samples and
adversarial attacks"): the Mahalanobis distance from the mean of a class, with one covariance for all classes. Here the
class is the network's decision, and the covariance is shrunk halfway towards a diagonal matrix, because a few hundred
inputs do not determine the covariance of as many channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from mmguard.types import EvidenceSite, FloatArray, IntArray

Features = npt.NDArray[np.floating]

SHRINKAGE = 0.5
"""Weight of the identity in the shrunk correlation matrix; the weight of the sample correlation matrix is the rest."""
MIN_OF_CLASS = 10
"""Minimum number of clean inputs from which a class gets its own mean. All other classes share the mean of D."""
MAX_DIRECTIONS = 128
"""Maximum number of eigenvectors of a site's correlation matrix that are kept. The other directions keep the variance
of the identity."""
LEAST_SCALE = 1e-3
"""Minimum standard deviation of a channel, as a share of the root mean square over all channels. A channel that is
constant over D would otherwise have an infinite distance."""


@dataclass(frozen=True)
class SiteGaussian:
    """Gaussians of one site's features: a mean for each class, and a covariance that all classes share.

    With u = features / scales − mean of the class, the squared distance is ‖u‖² − ‖u directions‖². The inverse of the
    shrunk correlation matrix is thereby represented by its leading eigenvectors.

    Attributes:
        scales: (C,) float64, the channels' standard deviations within classes, times the root of `SHRINKAGE`.
        groups: (K,) int64, the row in `means` of each class.
        means: (G, C) float64, means of the features divided by `scales`; row 0 is the mean over all classes.
        directions: (C, R) float64, eigenvectors of the correlation matrix, each shorter than 1.
    """

    scales: FloatArray
    groups: IntArray
    means: FloatArray
    directions: FloatArray

    @classmethod
    def fit(cls, features: Features, decisions: IntArray, classes: int) -> Self:
        """Fit the Gaussians to clean inputs.

        Args:
            features: (n, C) features of clean inputs, all finite.
            decisions: (n,) int64, the network's decisions.
            classes: number of classes K.

        Returns:
            The fitted Gaussians.
        """
        exact = features.astype(np.float64)
        counts = np.bincount(decisions, minlength=classes)
        own = np.flatnonzero(counts >= MIN_OF_CLASS)
        groups = np.zeros(classes, np.int64)
        groups[own] = np.arange(1, len(own) + 1)
        means = np.stack([exact.mean(axis=0), *(exact[decisions == label].mean(axis=0) for label in own)])
        rest = exact - means[groups[decisions]]
        scales = _scales(rest)
        return cls(
            scales * np.sqrt(SHRINKAGE), groups, means / (scales * np.sqrt(SHRINKAGE)), _directions(rest / scales)
        )

    def __call__(self, features: Features, decisions: IntArray) -> FloatArray:
        """Compute squared distances.

        Args:
            features: (N, C) features of any inputs.
            decisions: (N,) int64, the network's decisions.

        Returns:
            (N,) float64, dimensionless, at least 0; larger is more suspicious.
        """
        apart = features / self.scales - self.means[self.groups[decisions]]
        along = apart @ self.directions
        squared: FloatArray = np.einsum("nc,nc->n", apart, apart) - np.einsum("nr,nr->n", along, along)
        return np.maximum(squared, 0)


@dataclass(frozen=True)
class ActivationEvidence:
    """The sites at which activations are compared with those of clean inputs, and the Gaussians of each site.

    Attributes:
        sites: the sites; the last site of the network is the last entry.
        gaussians: the Gaussians of each site. All sites have the same `groups`.
    """

    sites: tuple[EvidenceSite, ...]
    gaussians: tuple[SiteGaussian, ...]

    @classmethod
    def fit(
        cls, sites: Sequence[EvidenceSite], features: Sequence[Features], decisions: IntArray, classes: int
    ) -> Self:
        """Fit the Gaussians of all sites to clean inputs; see `SiteGaussian.fit`.

        Args:
            sites: the sites.
            features: for each site, the features (n, C) of the clean inputs.
            decisions: (n,) int64, the network's decisions.
            classes: number of classes K.

        Returns:
            The fitted evidence.
        """
        return cls(tuple(sites), tuple(SiteGaussian.fit(each, decisions, classes) for each in features))

    def __call__(self, features: Sequence[Features], decisions: IntArray) -> FloatArray:
        """Compute the squared distances (N, S) from the features (N, C) of each site and the decisions (N,)."""
        return np.stack([own(each, decisions) for own, each in zip(self.gaussians, features, strict=True)], axis=1)


def held_out_distances(
    features: Sequence[Features], decisions: IntArray, classes: int, parts: Sequence[IntArray]
) -> FloatArray:
    """Compute each clean input's distances from Gaussians that were fitted without this input.

    Args:
        features: for each site, the features (n, C) of the clean inputs.
        decisions: (n,) int64, the network's decisions.
        classes: number of classes K.
        parts: row numbers of each part; together, the parts contain every row once. If empty, the Gaussians are fitted
            to all inputs.

    Returns:
        (n, S) float64, squared distances at S sites; larger is more suspicious.
    """
    rows = np.arange(len(decisions))
    distances = np.empty((len(rows), len(features)))
    for part in parts or [rows]:
        others = np.setdiff1d(rows, part) if parts else rows
        for site, own in enumerate(features):
            fitted = SiteGaussian.fit(own[others], decisions[others], classes)
            distances[part, site] = fitted(own[part], decisions[part])
    return distances


def _scales(rest: FloatArray) -> FloatArray:
    """Return the standard deviation of each channel of centred features (n, C), with a lower limit."""
    squares = (rest**2).mean(axis=0)
    scales: FloatArray = np.sqrt(np.maximum(squares, LEAST_SCALE**2 * squares.mean()))
    scales[scales == 0] = 1
    return scales


def _directions(rest: FloatArray) -> FloatArray:
    """Return the directions (C, R) of centred and scaled features (n, C).

    With the eigenvalues λ and eigenvectors v of the correlation matrix and the shrinkage α, the inverse of the shrunk
    matrix is (I − Σ (1 − α) λ / (α + (1 − α) λ) v vᵀ) / α.
    """
    _, singular, vectors = np.linalg.svd(rest, full_matrices=False)
    eigenvalues = (1 - SHRINKAGE) * singular[:MAX_DIRECTIONS] ** 2 / len(rest)
    lengths = np.sqrt(eigenvalues / (SHRINKAGE + eigenvalues))
    directions: FloatArray = vectors[:MAX_DIRECTIONS].T * lengths
    return directions
