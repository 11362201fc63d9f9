"""Evidence that the page shows in addition to the manifest: the scores of clean inputs and the effect of clipping."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from mmguard.types import FloatArray, SiteClipping

LARGEST_SCORE = 40.0
"""Score assigned to a p-value of 0. No positive float64 p-value has a larger score."""


@dataclass(frozen=True)
class Evidence:
    """What the page shows about the model's files and the calibration set.

    Attributes:
        model_sha256: maps the name of each file of the user's model to the file's SHA-256 (hexadecimal). Files with
            external weights are included.
        clipping: effect of each clip site's bounds on the calibration set, in the order of the manifest's sites.
        scores: (n,) float64, standard-normal scores of the calibration set under the fitted null; large is suspicious.
            If calibration was cross-fitted, each input was scored with bounds that were learned without that input.
            None if the bundle has no test.
    """

    model_sha256: Mapping[str, str]
    clipping: tuple[SiteClipping, ...]
    scores: FloatArray | None = None


def normal_scores(p_values: FloatArray) -> FloatArray:
    """Convert p-values to the standard-normal scores that the histogram and the quantile plot show.

    The score is Φ⁻¹(1 − p), clipped to a finite range.

    Args:
        p_values: p-values, (n,) float64 in [0, 1]; small is suspicious.

    Returns:
        The scores, (n,) float64 in [-40, 40]; large is suspicious.

    Example:
        >>> normal_scores(np.array([0.005, 0.5, 0.0])).round(3) + 0.0
        array([ 2.576,  0.   , 40.   ])
    """
    scores: FloatArray = np.clip(-ndtri(p_values), -LARGEST_SCORE, LARGEST_SCORE)
    return scores
