"""What the test reads of the original network's activations: a distance for each site, and one excess."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from mmguard.detection.distances import SiteGaussian
from mmguard.detection.ranges import ClassRanges
from mmguard.types import EvidenceSite, Features, FloatArray, IntArray


@dataclass(frozen=True)
class ActivationEvidence:
    """The sites at which activations are compared with those of clean inputs, and what they are compared with.

    Attributes:
        sites: the sites; the last site of the network is the last entry.
        gaussians: the Gaussians of each site. All sites have the same `groups`.
        ranges: the ranges of each site whose feature is `mean`, with the same `groups`.
    """

    sites: tuple[EvidenceSite, ...]
    gaussians: tuple[SiteGaussian, ...]
    ranges: tuple[ClassRanges, ...]

    @classmethod
    def fit(
        cls, sites: Sequence[EvidenceSite], features: Sequence[Features], decisions: IntArray, classes: int
    ) -> Self:
        """Fit Gaussians and ranges to clean inputs.

        Args:
            sites: the sites.
            features: for each site, the features (n, C) of the clean inputs.
            decisions: (n,) int64, the network's decisions.
            classes: number of classes K.

        Returns:
            The fitted evidence.
        """
        gaussians = tuple(SiteGaussian.fit(each, decisions, classes) for each in features)
        ranges = tuple(ClassRanges.fit(each, decisions, classes) for each in _means(sites, features))
        return cls(tuple(sites), gaussians, ranges)

    def __call__(self, features: Sequence[Features], decisions: IntArray) -> FloatArray:
        """Compute what the test reads.

        Args:
            features: for each site, the features (N, C) of any inputs.
            decisions: (N,) int64, the network's decisions.

        Returns:
            (N, S + 1) float64: the squared distances at the S sites, and then the sum of the excesses at all sites;
            larger is more suspicious.
        """
        distances = [own(each, decisions) for own, each in zip(self.gaussians, features, strict=True)]
        ranged = zip(self.ranges, _means(self.sites, features), strict=True)
        excess = np.sum([own(each, decisions) for own, each in ranged], axis=0)
        return np.stack([*distances, excess], axis=1)


def held_out_evidence(
    sites: Sequence[EvidenceSite],
    features: Sequence[Features],
    decisions: IntArray,
    classes: int,
    parts: Sequence[IntArray],
) -> FloatArray:
    """Compute what the test would read of each clean input if the evidence were fitted without this input.

    Args:
        sites: the sites.
        features: for each site, the features (n, C) of the clean inputs.
        decisions: (n,) int64, the network's decisions.
        classes: number of classes K.
        parts: row numbers of each part; together, the parts contain every row once. If empty, the evidence is fitted to
            all inputs.

    Returns:
        (n, S + 1) float64, as `ActivationEvidence` returns them.
    """
    rows = np.arange(len(decisions))
    values = np.empty((len(rows), len(features) + 1))
    for part in parts or [rows]:
        others = np.setdiff1d(rows, part) if parts else rows
        fitted = ActivationEvidence.fit(sites, [own[others] for own in features], decisions[others], classes)
        values[part] = fitted([own[part] for own in features], decisions[part])
    return values


def _means(sites: Sequence[EvidenceSite], features: Sequence[Features]) -> list[Features]:
    """Return the features that are means of channels."""
    return [each for site, each in zip(sites, features, strict=True) if site.feature == "mean"]
