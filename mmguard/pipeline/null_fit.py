"""Fit the null distribution of a calibration, and fall back to ranks if the clean inputs contradict the fit."""

import logging
import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from mmguard.bundle.diagnostics import warn_of_few
from mmguard.bundle.manifest import CriterionSpec, NullSpec
from mmguard.detection.margins import Readings, margin_gap
from mmguard.detection.mmdf import Criterion, MmdfTest, NullKind
from mmguard.errors import OptionError
from mmguard.settings import Settings
from mmguard.types import Calibration, FloatArray, IntArray

logger = logging.getLogger(__name__)

DOUBT = 0.05
"""The Gaussian null is rejected if a one-sided binomial test of the number of clean inputs with p ≤ θ has a p-value
below this level."""
WITHOUT_ACTIVATIONS = {
    "activation_distance": "",
    "activation_excess": "",
    "supported_margin_gap": "residual_margin_gap",
}
"""Maps each statistic that reads activations to the statistic to use instead, or to none, if there are no activations.
"""
CENTRED = {"residual_norm": "centred_residual_norm"}
"""Maps each statistic that depends on the mean of an input's logits to the statistic to use if this mean is unknown."""
MOST = 0.9
"""The excess of activations is tested if it is positive for at least this share of clean inputs. With few channels, it
is 0 for so many of them that no Gaussian fits."""
FEW = 2.0
"""If the expected number of clean inputs with p ≤ θ is below this, the fit is not rejected, regardless of the
observed number."""


def fit_null(
    learned: Calibration,
    settings: Settings,
    parts: Sequence[IntArray],
    activations: FloatArray | None = None,
    centred: bool = False,
) -> tuple[NullSpec, FloatArray]:
    """Fit the statistics of the test and their null.

    Args:
        learned: the original network's logits on D, and the clipped network's logits on D. The
            clipped network's logits for an input are computed with bounds that were learned without this input.
        settings: the statistics, the kind of null and the levels.
        parts: rows of each held-out part of D, as in `Criterion.fit`.
        activations: (n, S + 1) what the test reads of the activations of D, with evidence that was fitted without the
            input; None leaves out the statistics that read them.
        centred: whether to subtract the mean of each input's logits, because the model's outputs do not determine that
            mean.

    Returns:
        The null, and the scores (n,) of D that the null was fitted to; larger is more suspicious.

    Raises:
        CleanSetError: D has too few inputs, or all its inputs have the same score.
        OptionError: the bounds clip nothing in D, or D has so few inputs that p-values computed from ranks
            cannot be as small as theta.
    """
    original, clipped = learned.original_logits, learned.held_out_logits
    if not margin_gap(original, clipped).any():
        raise OptionError(
            f"with a --margin-weight of {settings.margin_weight:g}, the bounds clip nothing in the calibration set, so "
            "there is no null distribution to test against; use a higher weight"
        )
    warn_of_few(len(original), settings.theta)
    read = Readings(original, clipped, activations)
    names = _names(settings, activations, centred)
    fitted = {name: Criterion.fit(name, read, settings.null_power, parts) for name in names}
    scores: FloatArray = np.max([own for _, own in fitted.values()], axis=0)
    criteria = tuple(criterion for criterion, _ in fitted.values())
    gaussian = MmdfTest(criteria, settings.theta, settings.level_of_disagreement)
    kind = _kind_for(gaussian, scores) if settings.null == "auto" else settings.null
    null = NullSpec(
        kind=kind,
        n=len(original),
        theta=settings.theta,
        disagreement_theta=settings.level_of_disagreement,
        criteria=tuple(CriterionSpec.of(name, criterion) for name, (criterion, _) in fitted.items()),
        clean_scores=() if kind == "gaussian" else tuple(np.sort(scores).tolist()),
    )
    null.test()  # raises an error if theta is too small for this number of clean inputs
    return null, scores


def _names(settings: Settings, activations: FloatArray | None, centred: bool) -> list[str]:
    """Return the names of the statistics, replaced where what they read is not available."""
    replaced = (WITHOUT_ACTIVATIONS if activations is None else {}) | (CENTRED if centred else {})
    if activations is not None and (activations[:, -1] > 0).mean() < MOST:
        logger.info(
            "the test does not read the excess of activations, because it is 0 for more than %g %% of the clean inputs",
            100 * (1 - MOST),
        )
        replaced["activation_excess"] = ""
    names = list(dict.fromkeys(replaced.get(name, name) for name in settings.statistics))
    if not any(names):
        raise OptionError(
            f"the test cannot read {', '.join(settings.statistics)} of this model; choose other statistics"
        )
    return [name for name in names if name]


def _kind_for(gaussian: MmdfTest, scores: FloatArray) -> NullKind:
    """Choose the kind of null.

    If there are too few inputs to check the fit, ranks set a lower limit for the p-values of the fit. Otherwise,
    p-values are computed from ranks if significantly more inputs than expected have p ≤ θ under the fit.

    Args:
        gaussian: the test with the fitted null.
        scores: scores of the clean inputs, (n,) float64.

    Returns:
        `bounded` if there are few inputs, otherwise `gaussian` or `empirical`.
    """
    n, theta = len(scores), gaussian.theta
    if n * theta < FEW:
        logger.warning(
            "warning: %d clean inputs are too few to confirm the fitted null, so an input is flagged only if its "
            "score is above the scores of all clean inputs. More triggers may therefore be missed; provide at least %d "
            "clean inputs, or pass --null gaussian to use the fitted null alone",
            *(n, math.ceil(FEW / theta)),
        )
        return "bounded"
    reached = int((gaussian.p_values(scores) <= theta).sum())
    if binomtest(reached, n, theta, alternative="greater").pvalue >= DOUBT:
        return "gaussian"
    logger.info(
        "%d of %d clean inputs have p <= %g under the fitted null, which is more than chance explains. "
        "Therefore, p-values are computed from ranks among the clean inputs; pass --null gaussian to keep the "
        "fitted null",
        *(reached, n, theta),
    )
    return "empirical"
