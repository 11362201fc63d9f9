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


def flag_rates(decision: Decision) -> dict[str, float]:
    """Share of inputs flagged, for any reason and by reason."""
    rates = {reason.value: float((decision.reasons == reason).mean()) for reason in Reason if reason is not Reason.NONE}
    return {"any": float(decision.flagged.mean())} | rates
