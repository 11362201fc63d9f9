"""The section "False positives": how often clean inputs have p ≤ θ, and the lowest score that is flagged."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binomtest

from mmguard.bundle.manifest import Manifest
from mmguard.detection.null import ranked_score
from mmguard.report.evidence import Evidence, normal_scores


@dataclass(frozen=True)
class FalsePositives:
    """How often clean inputs have p ≤ θ.

    If p-values are ranks within the calibration set, the number of calibration inputs with p ≤ θ is fixed, so counting
    them reveals nothing about new inputs. But a new clean input is equally likely to take any of the n + 1 positions
    among the n calibration inputs. The share and its interval therefore follow from the number of positions with p ≤ θ:
    the probability of a score above the k-th largest of n has the distribution Beta(k, n + 1 − k).

    Attributes:
        count: number of calibration inputs with p ≤ θ; if `ranked`, number of the n + 1 positions with p ≤ θ.
        n: number of calibration inputs.
        low: lower end of the 95 % interval of the share. The interval is a Clopper–Pearson interval; if `ranked`, its
            ends are quantiles of the beta distribution.
        high: upper end of the 95 % interval.
        theta: level of the test.
        held_out: whether each input was tested with bounds that were learned without it.
        ranked: whether p-values are computed from ranks only. If False, p-values are computed from a fitted curve, and
            ranks may set a lower limit.
        threshold: score under the fitted null at or above which inputs are flagged.
    """

    count: int
    n: int
    low: float
    high: float
    theta: float
    held_out: bool
    ranked: bool
    threshold: float

    @property
    def share(self) -> float:
        """Share of clean inputs with p ≤ θ, in [0, 1]: observed on the calibration set, or expected if `ranked`."""
        return self.count / (self.n + self.ranked)

    @property
    def nominal_fits(self) -> bool:
        """Whether the interval contains θ."""
        return self.low <= self.theta <= self.high


def false_positives(manifest: Manifest, evidence: Evidence) -> FalsePositives | None:
    """Estimate how often clean inputs have p ≤ θ.

    Args:
        manifest: the bundle's manifest.
        evidence: evidence for the page; only the scores are used.

    Returns:
        The estimate, or None if the bundle has no test.
    """
    null, scores = manifest.null, evidence.scores
    if null is None or scores is None:
        return None
    theta, n, held_out = null.theta, len(scores), manifest.settings.held_out
    if null.kind == "empirical":
        count = int((np.arange(1, n + 1) / (1 + n) <= theta).sum())
        low, high = beta.ppf((0.025, 0.975), count, n + 1 - count).tolist()
        return FalsePositives(count, n, low, high, theta, held_out, True, float(np.sort(scores)[-count]))
    threshold = score_at(theta)
    if null.kind == "bounded":
        by_rank = ranked_score(theta, np.asarray(null.clean_scores))
        threshold = max(threshold, float(normal_scores(null.fitted().p_values(np.array([by_rank])))[0]))
    count = int((scores >= threshold).sum())
    interval = binomtest(count, n).proportion_ci(method="exact")
    return FalsePositives(count, n, float(interval.low), float(interval.high), theta, held_out, False, threshold)


def score_at(p_value: float) -> float:
    """Convert one p-value to its standard-normal score.

    Args:
        p_value: the p-value, in [0, 1].

    Returns:
        The score; large is suspicious.

    Example:
        >>> round(score_at(0.005), 3)
        2.576
    """
    return float(normal_scores(np.array([p_value]))[0])
