"""Metrics of detection and mitigation, as defined by the paper's Table 1 and the detection literature."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mmguard import Decision, Reason


def auroc(clean: NDArray[np.floating], triggered: NDArray[np.floating]) -> float:
    """Return the probability that a triggered input scores above a clean one, counting ties half (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([clean, triggered]))[len(clean) :]
    n = len(triggered)
    return float((ranks.sum() - n * (n + 1) / 2) / (len(clean) * n))


def threshold_at(clean: NDArray[np.floating], false_positive_rate: float) -> float:
    """Return the lowest threshold that flags at most a given share of clean inputs: the 1 - rate quantile of scores.

    A score equal to the threshold is not flagged, so ties are flagged together or not at all.

    Args:
        clean: (n,) scores of clean inputs; larger is more suspicious.
        false_positive_rate: in [0, 1]. Below 1 / n the threshold is the largest score; at 1 it is minus infinity.

    Returns:
        The threshold.

    Raises:
        ValueError: there are no scores.
    """
    n = len(clean)
    if not n:
        raise ValueError("expected scores of clean inputs to set the threshold, got none; pass at least one")
    # Compare shares, not counts: in floating point 0.29 * 100 is less than 29, but 29 / 100 is 0.29.
    allowed = int((np.arange(n + 1) / n <= false_positive_rate).sum()) - 1
    return float(np.sort(clean)[n - 1 - allowed]) if allowed < n else -np.inf


def true_positive_rate_at(
    clean_scores: NDArray[np.floating], triggered_scores: NDArray[np.floating], false_positive_rate: float
) -> float:
    """Return the largest share of triggered inputs that a threshold can flag at a given false-positive rate.

    Args:
        clean_scores: (n,) scores of clean inputs; larger is more suspicious. Scores above the threshold are flagged.
        triggered_scores: (m,) scores of triggered inputs, at least one.
        false_positive_rate: share of the clean inputs that may be flagged, in [0, 1].

    Returns:
        The share, in [0, 1].

    Raises:
        ValueError: there are no clean scores.
    """
    return float((triggered_scores > threshold_at(clean_scores, false_positive_rate)).mean())


def flag_rates(decision: Decision) -> dict[str, float]:
    """Return the share of flagged inputs, for any reason and by reason."""
    rates = {reason.value: float((decision.reasons == reason).mean()) for reason in Reason if reason is not Reason.NONE}
    return {"any": float(decision.flagged.mean())} | rates
