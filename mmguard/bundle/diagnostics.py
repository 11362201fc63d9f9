"""What the figures of a calibration should make its user wary of, as warnings in the log."""

import logging
from collections.abc import Mapping

from mmguard.bundle.manifest import CalibrationFigures
from mmguard.detection.rates import unseen_rate
from mmguard.text.format import number, percent
from mmguard.types import FloatArray

logger = logging.getLogger(__name__)

BLIND = 0.8
"""Share of the largest margin that is left where clipping may catch little."""
JUDGED = "sample"
"""Scale of the search whose margins tell so."""
LOST_ACCURACY = 0.05
"""Share of D by which clipping may lower the accuracy before it is warned of."""
DOUBTFUL = 0.5
"""Accuracy on D below which the set-up is doubted."""


def warn_of_blindness(original: Mapping[str, FloatArray], clipped: Mapping[str, FloatArray]) -> None:
    """Bounds that leave the largest margins as they were, because activations went unclipped, would catch nothing.

    Args:
        original, clipped: margins (K,) in logits of both networks by scale of the search.
    """
    before, after = original[JUDGED].max(), clipped[JUDGED].max()
    if after > BLIND * before:
        what = "lowers the largest margin only" if after < before else "does not lower the largest margin, which went"
        logger.warning(
            "warning: clipping %s from %s to %s, so this guard may catch little; "
            "see which activations are clip sites with `mmguard inspect BUNDLE --json`, or run more --rounds",
            *(what, number(before), number(after)),
        )


def warn_of_doubtful_labels(accuracy: float) -> None:
    """A model that decides most of D otherwise than labelled was likely trained on inputs that were made otherwise.

    Args:
        accuracy: of the original on labelled D, in [0, 1].
    """
    if accuracy < DOUBTFUL:
        logger.warning(
            "warning: the model decides only %s of the clean inputs as labelled; are --mean, --std, --scale, "
            "--size and the order of the classes those that it was trained with?",
            percent(accuracy),
        )


def warn_of_lost_accuracy(figures: CalibrationFigures, looser: str) -> None:
    """Clipping that changes many decisions on D would correct flagged inputs to wrong labels, and flag clean ones.

    Args:
        looser: the option that loosens the bounds, in words.
    """
    if figures.original_accuracy - figures.clipped_accuracy > LOST_ACCURACY:
        what = "accuracy" if figures.labelled else "agreement with the original's decisions"
        logger.warning(
            "warning: clipping lowers the %s on the clean inputs from %s to %s; for looser bounds, give a "
            "%s, or more clean inputs",
            *(what, percent(figures.original_accuracy), percent(figures.clipped_accuracy), looser),
        )


def warn_of_few(n: int, theta: float) -> None:
    """Fewer than one of n clean inputs is expected to be flagged: that none is says little of the rate."""
    if n * theta < 1:
        logger.warning(
            "warning: with %d clean inputs, a false-positive rate of %.3g %% cannot be told from one of %.1f %% "
            "(95 %%); more of them would make it surer",
            *(n, 100 * theta, 100 * unseen_rate(n)),
        )
