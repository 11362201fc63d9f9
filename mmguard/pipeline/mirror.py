"""Find out whether mirror images of clean inputs keep their labels, so that flagged inputs can be looked at twice."""

import logging

import numpy as np

from mmguard.bundle.manifest_checks import WIDTH
from mmguard.calibrate.graph.logits import logits_on
from mmguard.calibrate.learning.descent import largest_pass
from mmguard.pipeline.prepare import PreparedCalibration

logger = logging.getLogger(__name__)

LEAST_AGREEMENT = 0.85
"""Smallest share of D whose mirror images must get the same decision. It is above 0.9 for photographs that a network
was trained on together with their mirror images, and about 0.5 for digits."""


def mirror_axis(prepared: PreparedCalibration) -> int | None:
    """Return the axis along which flagged inputs are mirrored, or None if they are not.

    Args:
        prepared: the model and the calibration set.
    """
    preprocessing = prepared.input.preprocessing
    if preprocessing is None or preprocessing.layout not in WIDTH:
        return None
    axis, request = WIDTH[preprocessing.layout], prepared.request
    mirrored = np.ascontiguousarray(np.flip(prepared.x, axis))
    logits = logits_on(prepared.graph, mirrored, request.device, largest_pass(request.settings))
    same = float((logits.argmax(axis=1) == prepared.original_logits.argmax(axis=1)).mean())
    logger.info("%.1f %% of the clean inputs keep their decision if they are mirrored", 100 * same)
    return axis if same >= LEAST_AGREEMENT else None
