"""Offline, onnx: read the user's model, find its activations, insert Min, check the result."""

from mmguard.exporter.classifier import Classifier, read_classifier
from mmguard.exporter.clip import write_clipped
from mmguard.exporter.labels import multi_label
from mmguard.exporter.load import canonical
from mmguard.exporter.logits import scored, scored_file
from mmguard.exporter.plans import FORMS, write_plans
from mmguard.exporter.precision import batch_tolerance, tolerance
from mmguard.exporter.rows import require_rows
from mmguard.exporter.sites import Activation, LeftOut, Survey, find_activations, require_sites, survey
from mmguard.exporter.trial import copy_original, require_export
from mmguard.exporter.verify import run, verify_export, verify_tail

__all__ = [
    "FORMS",
    "Activation",
    "Classifier",
    "LeftOut",
    "Survey",
    "batch_tolerance",
    "canonical",
    "copy_original",
    "find_activations",
    "multi_label",
    "read_classifier",
    "require_export",
    "require_rows",
    "require_sites",
    "run",
    "scored",
    "scored_file",
    "survey",
    "tolerance",
    "verify_export",
    "verify_tail",
    "write_clipped",
    "write_plans",
]
