"""Distances of the original network's activations from those of clean inputs with the same decision.

The distance is that of Lee et al. 2018 ("A simple unified framework for detecting out-of-distribution samples and
adversarial attacks"): the Mahalanobis distance from the mean of a class, with one covariance for all classes. Here the
class is the network's decision, the variances are halfway between those of the class and those within all classes, and
the correlation is shrunk halfway towards the identity, because a few hundred inputs do not determine the covariance of
as many channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from mmguard.detection.groups import group_classes
from mmguard.types import Features, FloatArray, IntArray

SHRINKAGE = 0.5
"""Weight of the identity in the shrunk correlation matrix; the weight of the sample correlation matrix is the rest."""
OWN_VARIANCE = 0.5
"""Weight of a class's own variance in the squared scale of a channel; the weight of the variance within all classes is
the rest. A channel that hardly varies within a class thereby counts for more there, yet a few inputs of the class
cannot make it count too much."""
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
    """Gaussians of one site's features: means and scales for each class, and a correlation that all classes share.

    With u = (features − means of the class) / scales of the class, the squared distance is ‖u‖² − ‖u directions‖². The
    inverse of the shrunk correlation matrix is thereby represented by its leading eigenvectors.

    Attributes:
        groups: (K,) int64, the row of each class in the next two arrays; row 0 is of all clean inputs
            (`mmguard.detection.groups`).
        means: (G, C) float64, means of the features.
        scales: (G, C) float64, standard deviations of the features around these means, times the root of `SHRINKAGE`.
        directions: (C, R) float64, eigenvectors of the correlation matrix, each shorter than 1.
    """

    groups: IntArray
    means: FloatArray
    scales: FloatArray
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
        scales = _scales(rest, members, means)
        return cls(groups, means, scales * np.sqrt(SHRINKAGE), _directions(rest / scales[groups[decisions]]))

    def __call__(self, features: Features, decisions: IntArray) -> FloatArray:
        """Compute squared distances.

        Args:
            features: (N, C) features of any inputs.
            decisions: (N,) int64, the network's decisions.

        Returns:
            (N,) float64, dimensionless, at least 0; larger is more suspicious.
        """
        group = self.groups[decisions]
        apart = (features - self.means[group]) / self.scales[group]
        along = apart @ self.directions
        squared: FloatArray = np.einsum("nc,nc->n", apart, apart) - np.einsum("nr,nr->n", along, along)
        return np.maximum(squared, 0)


def _scales(rest: FloatArray, members: Sequence[IntArray], means: FloatArray) -> FloatArray:
    """Return the scales (G, C) of each group, with lower limits.

    Args:
        rest: (n, C) features minus the means of their group.
        members: the rows of each group; the first group has all rows.
        means: (G, C) means of each group.
    """
    pooled, *own = ((rest[rows] ** 2).mean(axis=0) for rows in members)
    squares = np.stack([pooled, *((1 - OWN_VARIANCE) * pooled + OWN_VARIANCE * each for each in own)])
    scales: FloatArray = np.maximum(np.sqrt(squares), LEAST_SCALE * np.sqrt(pooled.mean()))
    scales = np.maximum(scales, LEAST_VARIATION * np.abs(means[0]))
    scales[scales == 0] = 1
    return scales


def _directions(rest: FloatArray) -> FloatArray:
    """Return the directions (C, R) of centred and scaled features (n, C).

    With the eigenvalues λ and eigenvectors v of the correlation matrix and the shrinkage α, the inverse of the shrunk
    matrix is (I − Σ (1 − α) λ / (α + (1 − α) λ) v vᵀ) / α.
    """
    sizes = np.sqrt((rest**2).mean(axis=0))
    _, singular, vectors = np.linalg.svd(rest / np.where(sizes > 0, sizes, 1), full_matrices=False)
    eigenvalues = (1 - SHRINKAGE) * singular[:MAX_DIRECTIONS] ** 2 / len(rest)
    lengths = np.sqrt(eigenvalues / (SHRINKAGE + eigenvalues))
    directions: FloatArray = vectors[:MAX_DIRECTIONS].T * lengths
    return directions
