"""Offline, onnx: read the user's model, find its activations, insert Min, check the result."""

from mmguard.exporter.classifier import Classifier, read_classifier
from mmguard.exporter.clip import write_clipped
from mmguard.exporter.logits import scored, scored_file
from mmguard.exporter.plans import FORMS, write_plans
from mmguard.exporter.sites import Activation, find_activations
from mmguard.exporter.verify import run, verify_export, verify_tail

__all__ = [
    "FORMS",
    "Activation",
    "Classifier",
    "find_activations",
    "read_classifier",
    "run",
    "scored",
    "scored_file",
    "verify_export",
    "verify_tail",
    "write_clipped",
    "write_plans",
]
