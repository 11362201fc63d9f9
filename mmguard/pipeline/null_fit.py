"""The null distribution of a calibration: fitted to clean inputs, and doubted where they contradict it."""

import logging
import math
from collections.abc import Sequence

import numpy as np

from mmguard.bundle.diagnostics import warn_of_few
from mmguard.bundle.manifest import CriterionSpec, NullSpec
from mmguard.detection.margins import margin_gap
from mmguard.detection.mmdf import Criterion, MmdfTest, NullKind
from mmguard.errors import OptionError
from mmguard.settings.settings import Settings
from mmguard.types import Calibration, FloatArray, IntArray

logger = logging.getLogger(__name__)

DOUBT = 0.05
"""Under a Gaussian null that holds, so rarely do as many clean inputs reach theta as make it doubted."""
CENTRED = {"residual_norm": "centred_residual_norm"}
"""Statistics that look at the level of logits, and what stands in for them where that is unknown."""
FEW = 2.0
"""Clean inputs expected at or below theta, under which their number tells too little of the fit to doubt it."""


def fit_null(
    learned: Calibration, settings: Settings, parts: Sequence[IntArray], centred: bool = False
) -> tuple[NullSpec, FloatArray]:
    """Fit the test's statistics and their null.

    Args:
        parts: rows of each part of D that was held out, as in `Criterion.fit`.
        centred: test logits less their mean, because the model's answers do not tell it.

    Returns:
        The null, and the scores (n,) of D that it is of.

    Raises:
        CleanSetError: too few inputs, or all alike.
        OptionError: the bounds clip nothing of D, or theta is below what ranks among so few inputs can give.
    """
    original, clipped = learned.original_logits, learned.held_out_logits
    if not margin_gap(original, clipped).any():
        raise OptionError(
            f"at a --margin-weight of {settings.margin_weight:g} the bounds clip nothing of the clean inputs, so there "
            "is no null distribution to test against; give a higher one"
        )
    warn_of_few(len(original), settings.theta)
    names = [CENTRED.get(name, name) if centred else name for name in settings.statistics]
    fitted = {name: Criterion.fit(name, original, clipped, settings.null_power, parts) for name in names}
    scores: FloatArray = np.max([own for _, own in fitted.values()], axis=0)
    disagreement = settings.theta if settings.disagreement_theta is None else settings.disagreement_theta
    gaussian = MmdfTest(tuple(criterion for criterion, _ in fitted.values()), settings.theta, disagreement)
    kind = _chosen(gaussian, scores) if settings.null == "auto" else settings.null
    null = NullSpec(
        kind=kind,
        n=len(original),
        theta=settings.theta,
        disagreement_theta=disagreement,
        criteria=tuple(CriterionSpec.of(name, criterion) for name, (criterion, _) in fitted.items()),
        clean_scores=() if kind == "gaussian" else tuple(np.sort(scores).tolist()),
    )
    null.test()  # refuses a theta that so few clean inputs cannot reach
    return null, scores


def _chosen(gaussian: MmdfTest, scores: FloatArray) -> NullKind:
    """The null that clean inputs of these scores call for.

    A few cannot contradict the fit, so their ranks bound it. Many can: where more of them reach theta than chance
    explains, their ranks replace it.
    """
    # Imported here: it takes longer to load than all that serving needs.
    from scipy.stats import binomtest

    n, theta = len(scores), gaussian.theta
    if n * theta < FEW:
        logger.warning(
            "warning: %d clean inputs are too few to confirm the fitted null, so only inputs that score above all "
            "of them are flagged, and more triggers may be missed; give %d or more, or keep the fit by --null gaussian",
            *(n, math.ceil(FEW / theta)),
        )
        return "bounded"
    reached = int((gaussian.p_values(scores) <= theta).sum())
    if binomtest(reached, n, theta, alternative="greater").pvalue >= DOUBT:
        return "gaussian"
    logger.info(
        "%d of %d clean inputs have p <= %g by the fitted null, more than chance explains, so p-values are ranks among "
        "the clean inputs (--null gaussian keeps the fit)",
        *(reached, n, theta),
    )
    return "empirical"
