"""Figures of detection and mitigation, as the paper's Table 1 and the detection literature define them."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mmguard import Decision, Reason


def auroc(clean: NDArray[np.floating], triggered: NDArray[np.floating]) -> float:
    """Probability that a triggered input scores above a clean one, ties counted half (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([clean, triggered]))[len(clean) :]
    n = len(triggered)
    return float((ranks.sum() - n * (n + 1) / 2) / (len(clean) * n))


def threshold_at(clean: NDArray[np.floating], false_positive_rate: float) -> float:
    """The least threshold above which at most a share of clean scores lies: their empirical 1 - rate quantile.

    Scores equal to it are not above it, so that inputs that tie are flagged together or not at all.

    Args:
        clean: (n,) scores, larger is more suspicious.
        false_positive_rate: in [0, 1]; below 1 / n the threshold is the greatest score, at 1 minus infinity.

    Raises:
        ValueError: no scores.
    """
    n = len(clean)
    if not n:
        raise ValueError("a threshold cannot be read off no scores; give those of clean inputs")
    # Shares are compared, not counts: 0.29 * 100 is less than 29 in floating point, 29 / 100 is 0.29.
    allowed = int((np.arange(n + 1) / n <= false_positive_rate).sum()) - 1
    return float(np.sort(clean)[n - 1 - allowed]) if allowed < n else -np.inf


def true_positive_rate_at(
    clean_scores: NDArray[np.floating], triggered_scores: NDArray[np.floating], false_positive_rate: float
) -> float:
    """The greatest share of triggered inputs that a threshold flags while it flags at most a share of the clean ones.

    Args:
        clean_scores, triggered_scores: (n,) and (m,), neither empty; larger is more suspicious, and a score above the
            threshold is flagged.
        false_positive_rate: the share of these clean inputs that may be flagged, in [0, 1].

    Raises:
        ValueError: no clean scores.
    """
    return float((triggered_scores > threshold_at(clean_scores, false_positive_rate)).mean())


def flag_rates(decision: Decision) -> dict[str, float]:
    """Share of inputs flagged, for any reason and by reason."""
    rates = {reason.value: float((decision.reasons == reason).mean()) for reason in Reason if reason is not Reason.NONE}
    return {"any": float(decision.flagged.mean())} | rates
