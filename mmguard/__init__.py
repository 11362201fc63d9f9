"""mmguard: inference-time guard for deployed classifiers against backdoor triggers."""

from mmguard import errors
from mmguard.bundle.bundle import Bundle
from mmguard.guard import Guard, Policy, wrap
from mmguard.pipeline.api import calibrate_model, clipped_module, inspect_model
from mmguard.types import Decision, Reason

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Decision",
    "Guard",
    "Policy",
    "Reason",
    "__version__",
    "calibrate_model",
    "clipped_module",
    "errors",
    "inspect_model",
    "wrap",
]
