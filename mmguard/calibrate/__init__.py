"""Offline, PyTorch: the clean set, the differentiable graph, the margin search and the bounds."""

from mmguard.calibrate.calibrator import Calibrator, OnRound, Round
from mmguard.calibrate.clean import CleanSet, assign_classes, check_accuracy, read_clean
from mmguard.calibrate.clipping import measure_clipping
from mmguard.calibrate.compare import assert_matches_onnxruntime
from mmguard.calibrate.cross_fit import cross_fit
from mmguard.calibrate.domain import declared_input, with_box
from mmguard.calibrate.graph import DifferentiableGraph
from mmguard.calibrate.settings import Objective, Settings, find_preset

__all__ = [
    "Calibrator",
    "CleanSet",
    "DifferentiableGraph",
    "Objective",
    "OnRound",
    "Round",
    "Settings",
    "assert_matches_onnxruntime",
    "assign_classes",
    "check_accuracy",
    "cross_fit",
    "declared_input",
    "find_preset",
    "measure_clipping",
    "read_clean",
    "with_box",
]
