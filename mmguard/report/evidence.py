"""What the page shows beyond the manifest: how clean inputs score, and what clipping does to them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from mmguard.manifest import Manifest
from mmguard.types import FloatArray, SiteClipping

LIMIT = 40.0
"""No p-value above 0 that float64 holds has a larger score, so that a p-value of 0 gets this."""


@dataclass(frozen=True)
class Evidence:
    """What was seen on the clean set D.

    Attributes:
        model_sha256: of each of the user's model files by name, hexadecimal: external weights are files of their own.
        clipping: of each clip site, in the order of the manifest's.
        statistic: (n,) float64, scores of D as it was tested: held out where it was folded. None without a test.
    """

    model_sha256: Mapping[str, str]
    clipping: tuple[SiteClipping, ...]
    statistic: FloatArray | None = None


def scores(p_values: FloatArray) -> FloatArray:
    """P-values (n,) in [0, 1] as (n,) quantiles of a standard normal, finite; large is suspicious."""
    quantiles: FloatArray = np.clip(-ndtri(p_values), -LIMIT, LIMIT)
    return quantiles


@dataclass(frozen=True)
class FalsePositives:
    """How often clean inputs reach p <= theta.

    Attributes:
        count: of D's n inputs. low, high: Clopper and Pearson's 95 % interval of the share.
        held_out: whether each input was tested by bounds that were learned without it.
    """

    count: int
    n: int
    low: float
    high: float
    theta: float
    held_out: bool

    @property
    def share(self) -> float:
        """Observed on D, in [0, 1]."""
        return self.count / self.n

    @property
    def nominal_fits(self) -> bool:
        """Whether the interval holds theta."""
        return self.low <= self.theta <= self.high


def false_positives(manifest: Manifest, evidence: Evidence) -> FalsePositives | None:
    """Count D's inputs with p <= theta; None where there is no test."""
    # Imported here: it takes longer to load than all that serving needs.
    from scipy.stats import binomtest

    if manifest.null is None or evidence.statistic is None:
        return None
    theta, n = manifest.null.theta, len(evidence.statistic)
    count = int((evidence.statistic >= threshold(theta)).sum())
    interval = binomtest(count, n).proportion_ci(method="exact")
    held_out = manifest.settings.get("folds", 1) > 1
    return FalsePositives(count, n, float(interval.low), float(interval.high), theta, held_out)


def threshold(theta: float) -> float:
    """The score of an input whose p-value is theta."""
    return float(scores(np.array([theta]))[0])
