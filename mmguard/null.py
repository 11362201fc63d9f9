"""The null distribution of a calibration: fitted to clean inputs, and doubted where they contradict it."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmguard.advice import warn_of_few
from mmguard.errors import OptionError
from mmguard.manifest import CriterionSpec, NullSpec
from mmguard.mmdf import Criterion, MmdfTest
from mmguard.stats import enough_for_ranks, margin_gap
from mmguard.types import Calibration, FloatArray, IntArray

if TYPE_CHECKING:
    from mmguard.calibrate import Settings

logger = logging.getLogger(__name__)

DOUBT = 0.05
"""Under a Gaussian null that holds, so rarely do as many clean inputs reach theta as make it doubted."""


def fit_null(learned: Calibration, settings: "Settings", parts: Sequence[IntArray]) -> tuple[NullSpec, FloatArray]:
    """Fit the test's statistics and their null.

    Args:
        parts: rows of each part of D that was held out, as in `Criterion.fit`.

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
    fitted = {name: Criterion.fit(name, original, clipped, settings.null_power, parts) for name in settings.statistics}
    scores: FloatArray = np.max([own for _, own in fitted.values()], axis=0)
    disagreement = settings.theta if settings.disagreement_theta is None else settings.disagreement_theta
    gaussian = MmdfTest(tuple(criterion for criterion, _ in fitted.values()), settings.theta, disagreement)
    ranked = settings.null == "empirical" or (settings.null == "auto" and _doubted(gaussian, scores))
    null = NullSpec(
        kind="empirical" if ranked else "gaussian",
        n=len(original),
        theta=settings.theta,
        disagreement_theta=disagreement,
        criteria=tuple(CriterionSpec.of(name, criterion) for name, (criterion, _) in fitted.items()),
        clean_scores=tuple(np.sort(scores).tolist()) if ranked else (),
    )
    null.test()  # refuses a theta that so few clean inputs cannot reach
    return null, scores


def _doubted(gaussian: MmdfTest, scores: FloatArray) -> bool:
    """Whether more of the clean inputs reach theta than chance explains, and ranks among them can stand in for it."""
    # Imported here: it takes longer to load than all that serving needs.
    from scipy.stats import binomtest

    n, theta = len(scores), gaussian.theta
    reached = int((gaussian.p_values(scores) <= theta).sum())
    if binomtest(reached, n, theta, alternative="greater").pvalue >= DOUBT:
        return False
    what = f"{reached} of {n} clean inputs have p <= {theta:g} by the fitted null, more than chance explains"
    if n < (enough := enough_for_ranks(theta)):
        logger.warning(
            "warning: %s, so clean inputs will be flagged more often than theta says; with %d or more of them, ranks "
            "would stand in for the fit",
            *(what, enough),
        )
        return False
    logger.info("%s, so p-values are ranks among the clean inputs (--null gaussian keeps the fit)", what)
    return True
