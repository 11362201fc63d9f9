"""Adjust λ, the weight of the penalty in the objective, from round to round."""

import numpy as np

from mmguard.settings.settings import Settings

STEERING = 0.5
"""Exponent of the ratio (wanted change of the logits / actual change) by which λ is multiplied after each round."""
STEEPEST = 1.4
"""Maximum factor by which λ is multiplied after a round; the minimum is its inverse."""


def weight_factor(settings: Settings, number: int, fit_loss: float, agreement: float, variance: float) -> float:
    """Return the factor by which to multiply λ after a round.

    If `settings.budget` is set, λ is adjusted so that the change of the logits approaches the budget. Otherwise, λ is
    raised if the agreement is at least `settings.agreement`, and lowered otherwise.

    Args:
        settings: settings of the calibration.
        number: number of the finished round, counted from 1.
        fit_loss: mean squared change of the logits in that round.
        agreement: proportion of D on which both networks make the same decision; for MMOM, proportion of D on which the
            clipped network predicts the label.
        variance: variance of the original logits over D, averaged over classes.

    Returns:
        The factor. A factor above 1 makes the bounds clip more; a factor below 1 makes them clip less.

    Example:
        >>> weight_factor(Settings(budget=0.03), 1, fit_loss=0.12, agreement=1.0, variance=2.0)
        0.7142857142857143
    """
    if settings.budget is not None:
        wanted = settings.budget * variance
        return float(np.clip((wanted / max(fit_loss, 1e-12)) ** STEERING, 1 / STEEPEST, STEEPEST))
    waited = number - settings.margin_weight_from
    if waited < 0 or waited % settings.margin_weight_every:
        return 1.0
    kept = agreement >= settings.agreement
    return settings.margin_weight_factor if kept else 1 / settings.margin_weight_factor
