"""Distances of the original network's activations from those of clean inputs with the same decision.

The distance is that of Lee et al. 2018 ("A simple unified framework for detecting out-of-distribution samples and
adversarial attacks"): the Mahalanobis distance from the mean of a class, with one covariance for all classes. Here the
class is the network's decision, and the covariance is shrunk halfway towards a diagonal matrix, because a few hundred
inputs do not determine the covariance of as many channels.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from mmguard.detection.groups import group_classes
from mmguard.types import Features, FloatArray, IntArray

SHRINKAGE = 0.5
"""Weight of the identity in the shrunk correlation matrix; the weight of the sample correlation matrix is the rest."""
MAX_DIRECTIONS = 128
"""Maximum number of eigenvectors of a site's correlation matrix that are kept. The other directions keep the variance
of the identity."""
LEAST_SCALE = 1e-3
"""Minimum standard deviation of a channel, as a share of the root mean square over all channels. A channel that is
constant over D would otherwise have an infinite distance."""

LEAST_VARIATION = 1e-4
"""Minimum standard deviation of a channel, as a share of its mean. The runtime graph computes in float32, whose
rounding errors are a share of the mean."""


@dataclass(frozen=True)
class SiteGaussian:
    """Gaussians of one site's features: a mean for each class, and a covariance that all classes share.

    With u = features / scales − mean of the class, the squared distance is ‖u‖² − ‖u directions‖². The inverse of the
    shrunk correlation matrix is thereby represented by its leading eigenvectors.

    Attributes:
        scales: (C,) float64, the channels' standard deviations within classes, times the root of `SHRINKAGE`.
        groups: (K,) int64, the row in `means` of each class (`mmguard.detection.groups`).
        means: (G, C) float64, means of the features divided by `scales`; row 0 is the mean of all inputs.
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
        groups, members = group_classes(decisions, classes)
        means = np.stack([exact[rows].mean(axis=0) for rows in members])
        rest = exact - means[groups[decisions]]
        scales = _scales(rest, means[0])
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


def _scales(rest: FloatArray, means: FloatArray) -> FloatArray:
    """Return the standard deviation of each channel of centred features (n, C) with means (C,), with lower limits."""
    squares = (rest**2).mean(axis=0)
    scales: FloatArray = np.maximum(np.sqrt(squares), LEAST_SCALE * np.sqrt(squares.mean()))
    scales = np.maximum(scales, LEAST_VARIATION * np.abs(means))
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
