"""What the page shows beyond the manifest: how clean inputs score, and what clipping does to them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from mmguard.bundle.manifest import Manifest
from mmguard.detection.null import ranked_score
from mmguard.types import FloatArray, SiteClipping

LIMIT = 40.0
"""No p-value above 0 that float64 holds has a larger score, so that a p-value of 0 gets this."""


@dataclass(frozen=True)
class Evidence:
    """What was seen on the clean set D.

    Attributes:
        model_sha256: of each of the user's model files by name, hexadecimal: external weights are files of their own.
        clipping: of each clip site, in the order of the manifest's.
        statistic: (n,) float64, scores of D by the fitted null, as it was tested: held out where it was folded. None
            without a test.
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

    Where p-values are ranks among D's own inputs, these tell nothing of how often: a fresh input's score is as likely
    in any place among them. Of the `count` places that reach theta follow the share and its interval, for the
    probability of a score beyond the k-th largest of n is Beta(k, n + 1 - k).

    Attributes:
        count: of D's n inputs, or of the n + 1 places among them where `ranked`.
        low, high: 95 % interval of the share; Clopper and Pearson's, or of that beta distribution.
        held_out: whether each input was tested by bounds that were learned without it.
        ranked: whether p-values are ranks, not of a curve that ranks may bound.
        line: the score, by the fitted null, beyond which inputs are flagged.
    """

    count: int
    n: int
    low: float
    high: float
    theta: float
    held_out: bool
    ranked: bool
    line: float

    @property
    def share(self) -> float:
        """Observed on D, in [0, 1]; expected where p-values are ranks."""
        return self.count / (self.n + self.ranked)

    @property
    def nominal_fits(self) -> bool:
        """Whether the interval holds theta."""
        return self.low <= self.theta <= self.high


def false_positives(manifest: Manifest, evidence: Evidence) -> FalsePositives | None:
    """How often clean inputs are expected to reach p <= theta; None where there is no test."""
    # Imported here: it takes longer to load than all that serving needs.
    from scipy.stats import beta, binomtest

    if manifest.null is None or evidence.statistic is None:
        return None
    theta, n = manifest.null.theta, len(evidence.statistic)
    held_out = manifest.settings.get("folds", 1) > 1
    if manifest.null.kind == "empirical":
        count = int((np.arange(1, n + 1) / (1 + n) <= theta).sum())
        low, high = beta.ppf((0.025, 0.975), count, n + 1 - count).tolist()
        return FalsePositives(count, n, low, high, theta, held_out, True, float(np.sort(evidence.statistic)[-count]))
    line = threshold(theta)
    if manifest.null.kind == "bounded":
        by_rank = ranked_score(theta, np.asarray(manifest.null.clean_scores))
        line = max(line, float(scores(manifest.null.fitted().p_values(np.array([by_rank])))[0]))
    count = int((evidence.statistic >= line).sum())
    interval = binomtest(count, n).proportion_ci(method="exact")
    return FalsePositives(count, n, float(interval.low), float(interval.high), theta, held_out, False, line)


def threshold(theta: float) -> float:
    """The score of an input whose p-value by the fitted null is theta."""
    return float(scores(np.array([theta]))[0])
