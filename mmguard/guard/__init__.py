"""Everything that runs at inference time: test, policy, wrapping, metrics, serving. Needs neither torch nor onnx."""

from mmguard.guard.guard import Guard, GuardedBatch
from mmguard.guard.policy import Policy
from mmguard.guard.verify import verify_bundle
from mmguard.guard.wrapping import wrap

__all__ = ["Guard", "GuardedBatch", "Policy", "verify_bundle", "wrap"]
