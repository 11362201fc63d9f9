"""From two networks' logits to a decision. No two arrays of a decision share memory: callers may change them."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from mmguard.detection.margins import exclude_class, margin_gap
from mmguard.detection.mmdf import MmdfTest
from mmguard.guard.policy import Policy
from mmguard.inputs.checks import rows_not_finite
from mmguard.types import ABSTAIN, BoolArray, Decision, IntArray, Reason

Logits = npt.NDArray[np.float32]
REASONS = np.array([Reason.NONE, Reason.DISAGREEMENT, Reason.CONFIDENCE, Reason.BOTH], dtype=np.str_)


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
        doubted = flagged & verdicts.lost_confidence
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
    return _without_test(labels.copy(), original_labels, clipped_labels, Reason.NONE)


def decide_rows(
    original: Logits, clipped: Logits, rows: BoolArray, decide: Callable[[Logits, Logits], Decision], policy: Policy
) -> Decision:
    """The decision of a batch of which only some rows can be judged; the others are untested.

    Args:
        original, clipped: (N, K) logits of the two networks on the same inputs; of the other rows they may be anything.
        rows: (N,) bool, those that can be judged: there both networks' logits are finite.
        decide: judges these rows as a batch of their own.
    """
    decision, judged = untested(original, policy), decide(original[rows], clipped[rows])
    for field in fields(Decision):
        getattr(decision, field.name)[rows] = getattr(judged, field.name)
    return decision


def untested(original: Logits, policy: Policy) -> Decision:
    """The decision where the test could not run: the original's labels if open, no labels if closed.

    Args:
        original: (N, K) logits. A row that is not finite decides for nothing, so it has no label either way.
    """
    decided = np.where(rows_not_finite(original), ABSTAIN, original.argmax(axis=1))
    nothing = np.full(len(original), ABSTAIN, dtype=np.int64)
    labels = nothing if policy.when_untested == "closed" else decided
    return _without_test(labels.copy(), decided, nothing, Reason.UNTESTED)


def uncorrected(decision: Decision, policy: Policy) -> Decision:
    """A decision whose corrections could not be carried out: the original's labels there if open, none if closed."""
    given = ABSTAIN if policy.when_untested == "closed" else decision.original_labels
    labels = np.where(decision.corrected, given, decision.labels)
    return replace(decision, labels=labels, corrected=np.zeros(len(decision), np.bool_))


def rows_of(decision: Decision, rows: BoolArray) -> Decision:
    """The decision of some rows of a batch."""
    return Decision(**{field.name: getattr(decision, field.name)[rows] for field in fields(Decision)})


def _without_test(labels: IntArray, original_labels: IntArray, clipped_labels: IntArray, reason: Reason) -> Decision:
    n = len(labels)
    return Decision(
        labels=labels,
        original_labels=original_labels,
        clipped_labels=clipped_labels,
        flagged=np.zeros(n, np.bool_),
        corrected=np.zeros(n, np.bool_),
        reasons=np.full(n, reason, dtype=REASONS.dtype),
        p_values=np.full(n, np.nan),
        margin_gaps=np.full(n, np.nan),
    )


def _reasons(disagreement: BoolArray, confidence: BoolArray) -> npt.NDArray[np.str_]:
    return REASONS[disagreement + 2 * confidence]
