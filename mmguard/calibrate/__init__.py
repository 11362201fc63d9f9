"""Offline, PyTorch: the clean set, the differentiable graph, the margin search and the bounds."""

from mmguard.calibrate.audit_search import maximum_margins
from mmguard.calibrate.calibrator import Calibrator, OnRound, Round
from mmguard.calibrate.checkpoint import Checkpoint
from mmguard.calibrate.clean import CleanSet, assign_classes, check_accuracy, check_classes, read_clean
from mmguard.calibrate.clipping import measure_clipping
from mmguard.calibrate.compare import assert_matches_onnxruntime
from mmguard.calibrate.cross_fit import cross_fit, parts_of
from mmguard.calibrate.domain import declared_input, with_box
from mmguard.calibrate.effort import found_margins, measured_steps, tasks, with_margins
from mmguard.calibrate.fingerprint import fingerprint
from mmguard.calibrate.graph import DifferentiableGraph
from mmguard.calibrate.plan import refusals
from mmguard.calibrate.settings import Null, Objective, Settings, find_preset

__all__ = [
    "Calibrator",
    "Checkpoint",
    "CleanSet",
    "DifferentiableGraph",
    "Null",
    "Objective",
    "OnRound",
    "Round",
    "Settings",
    "assert_matches_onnxruntime",
    "assign_classes",
    "check_accuracy",
    "check_classes",
    "cross_fit",
    "declared_input",
    "find_preset",
    "fingerprint",
    "found_margins",
    "maximum_margins",
    "measure_clipping",
    "measured_steps",
    "parts_of",
    "read_clean",
    "refusals",
    "tasks",
    "with_box",
    "with_margins",
]
