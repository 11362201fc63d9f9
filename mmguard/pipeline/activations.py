"""Compare the original network's activations on the calibration set with each other: the activation evidence."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mmguard.detection.distances import ActivationEvidence, held_out_distances
from mmguard.detection.statistics import NEED_DISTANCES
from mmguard.exporter.evidence.choose import choose_sites
from mmguard.exporter.evidence.pool import pooled_features
from mmguard.pipeline.prepare import PreparedCalibration
from mmguard.types import FloatArray, IntArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeenActivations:
    """What was seen of the original network's activations on D.

    Attributes:
        evidence: the sites and their Gaussians, fitted to D.
        distances: (n, S) squared distances of D from these Gaussians.
        held_out_distances: (n, S) squared distances of each input of D from Gaussians fitted without this input.
    """

    evidence: ActivationEvidence
    distances: FloatArray
    held_out_distances: FloatArray


def observe_activations(prepared: PreparedCalibration, parts: Sequence[IntArray]) -> SeenActivations | None:
    """Pool the activations of D, and fit the Gaussians of each site.

    Args:
        prepared: the model and the calibration set.
        parts: row numbers of each held-out part of D, as in `mmguard.detection.distances.held_out_distances`.

    Returns:
        The evidence; None if no statistic of the test reads it, or if no site has one row of activations per input.
    """
    if not NEED_DISTANCES & set(prepared.request.settings.statistics):
        return None
    sites, features = pooled_features(prepared.classifier, choose_sites(prepared.activations), prepared.x)
    if not sites:
        logger.warning(
            "warning: no clip site has one row of activations for each input and a known number of channels, so the "
            "test does not read activations"
        )
        return None
    decisions, classes = prepared.original_logits.argmax(axis=1), prepared.original_logits.shape[1]
    evidence = ActivationEvidence.fit(sites, features, decisions, classes)
    return SeenActivations(
        evidence, evidence(features, decisions), held_out_distances(features, decisions, classes, parts)
    )
