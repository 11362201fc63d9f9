"""mmguard: an inference-time guard that protects deployed classifiers against backdoor triggers."""

from mmguard import errors
from mmguard.bundle.bundle import Bundle
from mmguard.detection.audit import Audit
from mmguard.guard import Guard, GuardedBatch, Policy, wrap
from mmguard.guard.bench import Bench, bench
from mmguard.guard.serve import serve
from mmguard.guard.serving.options import RequestLimits, ServerOptions
from mmguard.guard.verify import verify_bundle
from mmguard.inputs.spec import Preprocessing
from mmguard.pipeline.api import calibrate_model, clipped_module, inspect_model
from mmguard.settings import Settings, preset
from mmguard.types import Decision, Reason

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "Bench",
    "Bundle",
    "Decision",
    "Guard",
    "GuardedBatch",
    "Policy",
    "Preprocessing",
    "Reason",
    "RequestLimits",
    "ServerOptions",
    "Settings",
    "__version__",
    "bench",
    "calibrate_model",
    "clipped_module",
    "errors",
    "inspect_model",
    "preset",
    "serve",
    "verify_bundle",
    "wrap",
]
