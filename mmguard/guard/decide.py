"""From two networks' logits to a decision, and to what the model's caller is given."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax

from mmguard.guard.policy import Policy
from mmguard.mmdf import MmdfTest
from mmguard.stats import exclude_class, margin_gap
from mmguard.types import ABSTAIN, BoolArray, Decision, IntArray, Reason, Tail

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


def guarded_output(output: Logits, clipped: Logits | None, decision: Decision, tail: Tail) -> Logits:
    """The model's own output with the policy applied.

    A corrected row carries the clipped network's values with the original's class put last, so that its arg max is the
    corrected label; a row without a label is NaN; every other row is the original's, bit for bit.

    Args:
        output: (N, K) what the original network returned. clipped: (N, K) logits, None where nothing is corrected.
    """
    abstained = decision.labels == ABSTAIN
    if not (decision.corrected.any() or abstained.any()):
        return output
    result = output.copy()
    if clipped is not None and decision.corrected.any():
        rows = decision.corrected
        result[rows] = _apply_tail(exclude_class(clipped[rows], decision.original_labels[rows]), tail)
    result[abstained] = np.nan
    return result


def _apply_tail(logits: Logits, tail: Tail) -> Logits:
    """Do to logits what the model does to its own before it returns them."""
    functions: dict[Tail, Callable[..., Logits]] = {Tail.SOFTMAX: softmax, Tail.LOG_SOFTMAX: log_softmax}
    return functions[tail](logits, axis=1) if tail in functions else logits


def _reasons(disagreement: BoolArray, confidence: BoolArray) -> npt.NDArray[np.str_]:
    names = np.array([Reason.NONE, Reason.DISAGREEMENT, Reason.CONFIDENCE, Reason.BOTH], dtype=np.str_)
    return names[disagreement + 2 * confidence]
