"""The kinds of evidence for a trigger."""

from typing import Literal

Evidence = Literal["confidence", "activations", "margin"]
"""The kinds of evidence: clipping changed the logits; the original network's activations; its own margin."""
