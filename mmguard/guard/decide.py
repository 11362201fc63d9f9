"""From two networks' logits to a decision."""

import numpy as np
import numpy.typing as npt

from mmguard.guard.policy import Policy
from mmguard.mmdf import MmdfTest
from mmguard.stats import exclude_class, margin_gap
from mmguard.types import ABSTAIN, BoolArray, Decision, IntArray, Reason

Logits = npt.NDArray[np.float32]


def decide(original: Logits, clipped: Logits, test: MmdfTest, policy: Policy) -> Decision:
    """Test a batch and label it.

    Args:
        original, clipped: (N, K) logits of the two networks on the same inputs.
    """
    verdicts = test(original, clipped)
    flagged = verdicts.flagged
    original_labels, clipped_labels = original.argmax(axis=1), clipped.argmax(axis=1)
    labels = original_labels.copy()
    if policy.corrects:
        labels[flagged] = clipped_labels[flagged]
        doubted = flagged & verdicts.distrusted
        labels[doubted] = exclude_class(clipped[doubted], original_labels[doubted]).argmax(axis=1)
    elif policy.abstains:
        labels[flagged] = ABSTAIN
    return Decision(
        labels=labels,
        original_labels=original_labels,
        clipped_labels=clipped_labels,
        flagged=flagged,
        corrected=(labels != original_labels) & policy.corrects,
        reasons=_reasons(verdicts.disagreement, verdicts.confidence),
        p_values=verdicts.p_values,
        margin_gaps=margin_gap(original, clipped),
    )


def corrected_model(original: Logits, clipped: Logits, policy: Policy) -> Decision:
    """The decision of a bundle without a test, whose clipped network answers unless the mode is shadow.

    Args:
        original, clipped: (N, K) logits of the two networks on the same inputs.
    """
    original_labels, clipped_labels = original.argmax(axis=1), clipped.argmax(axis=1)
    labels = clipped_labels if policy.mode == "enforce" else original_labels
    return _without_test(labels, original_labels, clipped_labels)


def untested(original: Logits, policy: Policy) -> Decision:
    """The decision where the test could not run: the original's labels if open, no labels if closed."""
    original_labels = original.argmax(axis=1)
    abstained = np.full(len(original), ABSTAIN, dtype=np.int64)
    return _without_test(abstained if policy.when_untested == "closed" else original_labels, original_labels, abstained)


def _without_test(labels: IntArray, original_labels: IntArray, clipped_labels: IntArray) -> Decision:
    nothing = np.zeros(len(labels), dtype=np.bool_)
    unknown = np.full(len(labels), np.nan)
    return Decision(
        labels=labels,
        original_labels=original_labels,
        clipped_labels=clipped_labels,
        flagged=nothing,
        corrected=nothing,
        reasons=_reasons(nothing, nothing),
        p_values=unknown,
        margin_gaps=unknown,
    )


def _reasons(disagreement: BoolArray, confidence: BoolArray) -> npt.NDArray[np.str_]:
    names = np.array([Reason.NONE, Reason.DISAGREEMENT, Reason.CONFIDENCE, Reason.BOTH], dtype=np.str_)
    return names[disagreement + 2 * confidence]
