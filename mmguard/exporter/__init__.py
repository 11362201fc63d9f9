"""Offline, onnx: read the user's model, find its activations, insert Min, check the result."""

from mmguard.exporter.classifier import Classifier, read_classifier
from mmguard.exporter.clip import write_clipped
from mmguard.exporter.plans import write_plans
from mmguard.exporter.sites import Activation, find_activations
from mmguard.exporter.verify import run, verify_export

__all__ = [
    "Activation",
    "Classifier",
    "find_activations",
    "read_classifier",
    "run",
    "verify_export",
    "write_clipped",
    "write_plans",
]
