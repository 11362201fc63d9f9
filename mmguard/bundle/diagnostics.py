"""Log warnings about calibration results that the user should look into."""

import logging
from collections.abc import Mapping

from mmguard.bundle.manifest import CalibrationFigures
from mmguard.detection.rates import unseen_rate
from mmguard.text.format import number, percent
from mmguard.types import FloatArray

logger = logging.getLogger(__name__)

BLIND = 0.8
"""If more than this share of the largest margin remains after clipping, the guard may detect few triggered inputs."""
JUDGED = "sample"
"""The scale of the margin search whose margins are checked against `BLIND`."""
LOST_ACCURACY = 0.05
"""mmguard warns if clipping lowers the accuracy, in [0, 1], on the calibration set by more than this amount."""
DOUBTFUL = 0.5
"""If the accuracy on the calibration set is lower than this, the inputs were probably prepared incorrectly."""


def warn_of_blindness(original: Mapping[str, FloatArray], clipped: Mapping[str, FloatArray]) -> None:
    """Warn if clipping hardly lowers the largest margin, because the guard may then detect few triggered inputs.

    This happens if important activations are not clip sites.

    Args:
        original: margins (K,) of the original network, in logits, by scale of the margin search.
        clipped: margins (K,) of the clipped network, in logits, with the same scales as keys.
    """
    before, after = original[JUDGED].max(), clipped[JUDGED].max()
    if after > BLIND * before:
        what = "lowers the largest margin only" if after < before else "does not lower the largest margin, which went"
        logger.warning(
            "warning: clipping %s from %s to %s, so this guard may detect few triggered inputs; "
            "list the clip sites with `mmguard inspect BUNDLE --json`, or calibrate with more --rounds",
            *(what, number(before), number(after)),
        )


def warn_of_doubtful_labels(accuracy: float) -> None:
    """Warn if the model's decisions differ from the labels for most of the calibration set.

    If this happens, the model was probably trained on inputs that were prepared differently.

    Args:
        accuracy: accuracy of the original network on the labelled calibration set, in [0, 1].
    """
    if accuracy < DOUBTFUL:
        logger.warning(
            "warning: the model's decisions match the labels of only %s of the calibration set; check that --mean, "
            "--std, --scale, --size and the order of the classes are the same as in the model's training",
            percent(accuracy),
        )


def warn_of_lost_accuracy(figures: CalibrationFigures, looser: str) -> None:
    """Warn if clipping changes many decisions on the calibration set.

    The guard would then correct flagged inputs to wrong labels, and flag clean inputs.

    Args:
        figures: the figures that the calibration measured.
        looser: the option that loosens the bounds, after the direction in which to change it, such as `lower --budget`.
    """
    if figures.original_accuracy - figures.clipped_accuracy > LOST_ACCURACY:
        what = "accuracy" if figures.labelled else "agreement with the original network's decisions"
        logger.warning(
            "warning: clipping lowers the %s on the calibration set from %s to %s; to loosen the bounds, pass a "
            "%s, or provide more clean inputs",
            *(what, percent(figures.original_accuracy), percent(figures.clipped_accuracy), looser),
        )


def warn_of_few(n: int, theta: float) -> None:
    """Warn if there are too few clean inputs to estimate the false-positive rate.

    There are too few clean inputs if the test is expected to flag fewer than one of them.

    Args:
        n: number of clean inputs.
        theta: level of the test.
    """
    if n * theta < 1:
        logger.warning(
            "warning: %d clean inputs are too few to distinguish a false-positive rate of %.3g %% from a rate of "
            "%.1f %% (at 95 %% confidence); provide more clean inputs for a better estimate",
            *(n, 100 * theta, 100 * unseen_rate(n)),
        )
