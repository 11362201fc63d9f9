"""Online: sessions, the MMDF test, policy, wrapping, metrics and serving. Needs neither torch nor onnx."""

from mmguard.guard.guard import Guard, GuardedBatch
from mmguard.guard.policy import Policy
from mmguard.guard.wrapping import wrap

__all__ = ["Guard", "GuardedBatch", "Policy", "wrap"]
