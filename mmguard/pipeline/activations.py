"""Compare the original network's activations on the calibration set with each other: the activation evidence."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mmguard.detection.evidence import ActivationEvidence, held_out_evidence
from mmguard.detection.statistics import READ_ACTIVATIONS
from mmguard.exporter.add_logits import file_with_logits
from mmguard.exporter.equality import run
from mmguard.exporter.evidence.choose import choose_sites
from mmguard.exporter.evidence.pool import pooled_features
from mmguard.exporter.tolerance import QUANTISERS
from mmguard.pipeline.prepare import PreparedCalibration
from mmguard.types import FloatArray, IntArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeenActivations:
    """What was seen of the original network's activations on D.

    Attributes:
        evidence: the evidence, fitted to D.
        read: (n, S + 1) what the test reads of the activations of D.
        held_out: (n, S + 1) what it would read of each input of D if the evidence were fitted without this input.
    """

    evidence: ActivationEvidence
    read: FloatArray
    held_out: FloatArray


def observe_activations(prepared: PreparedCalibration, parts: Sequence[IntArray]) -> SeenActivations | None:
    """Pool the activations of D, and fit the evidence.

    Args:
        prepared: the model and the calibration set.
        parts: row numbers of each held-out part of D, as in `mmguard.detection.evidence.held_out_evidence`.

    Returns:
        The evidence; None if no statistic of the test reads it, if the model is quantised, or if no site has one row of
        activations per input.
    """
    if not READ_ACTIVATIONS & set(prepared.request.settings.statistics):
        return None
    classifier, x = prepared.classifier, prepared.x
    if any(node.op_type in QUANTISERS for node in classifier.model.graph):
        logger.info("the test does not read activations, because reading them would slow down a quantised model")
        return None
    sites, features = pooled_features(classifier, choose_sites(prepared.activations), x)
    if not sites:
        logger.warning(
            "warning: no clip site has one row of activations for each input and a known number of channels, so the "
            "test does not read activations"
        )
        return None
    with file_with_logits(classifier) as path:  # PyTorch may decide near-ties differently than the runtime graph
        logits = run(path, x, classifier.output.logits)
    decisions, classes = logits.argmax(axis=1), logits.shape[1]
    evidence = ActivationEvidence.fit(sites, features, decisions, classes)
    return SeenActivations(
        evidence, evidence(features, decisions), held_out_evidence(sites, features, decisions, classes, parts)
    )
