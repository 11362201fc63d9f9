"""Turns both networks' logits into a decision. Its arrays share no memory, so callers may modify each array."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from mmguard.detection.margins import LogitPair, exclude_class
from mmguard.detection.mmdf import MmdfTest
from mmguard.guard.policy import Policy
from mmguard.inputs.batch_checks import rows_not_finite
from mmguard.types import ABSTAIN, BoolArray, Decision, IntArray, Reason

Logits = npt.NDArray[np.float32]
REASONS = np.array([Reason.NONE, Reason.DISAGREEMENT, Reason.CONFIDENCE, Reason.BOTH], dtype=np.str_)


def decide(original: Logits, clipped: Logits, test: MmdfTest, policy: Policy) -> Decision:
    """Test a batch and choose its labels.

    Args:
        original: (N, K) finite logits of the original network. The caller must check that they are finite.
        clipped: (N, K) finite logits of the clipped network on the same inputs. The caller must check that they are
            finite.
        test: the bundle's test.
        policy: what to do with flagged inputs.

    Returns:
        The decision.
    """
    pair = LogitPair(original, clipped)
    verdicts = test.verdicts(pair)
    flagged, labels = verdicts.flagged, pair.decisions.copy()
    if policy.corrects:
        labels[flagged] = pair.clipped_decisions[flagged]
        doubted = flagged & verdicts.lost_confidence
        labels[doubted] = exclude_class(clipped[doubted], pair.decisions[doubted]).argmax(axis=1)
    elif policy.abstains:
        labels[flagged] = ABSTAIN
    return Decision(
        labels=labels,
        original_labels=pair.decisions,
        clipped_labels=pair.clipped_decisions,
        flagged=flagged,
        corrected=(labels != pair.decisions) & policy.corrects,
        reasons=REASONS[verdicts.disagreement + 2 * verdicts.confidence],
        p_values=verdicts.p_values,
        margin_gaps=pair.margin_gaps,
    )


def corrected_model(original: Logits, clipped: Logits, policy: Policy) -> Decision:
    """Return the decision for a batch if the bundle has no test.

    The labels are those of the clipped network or, in shadow mode, those of the original network.

    Args:
        original: (N, K) logits of the original network.
        clipped: (N, K) logits of the clipped network on the same inputs.
        policy: the policy; only its mode is used.

    Returns:
        The decision, in which nothing is flagged.
    """
    original_labels, clipped_labels = original.argmax(axis=1), clipped.argmax(axis=1)
    labels = clipped_labels if policy.mode == "enforce" else original_labels
    return _without_test(labels.copy(), original_labels, clipped_labels, Reason.NONE)


def decide_rows(
    original: Logits, clipped: Logits, rows: BoolArray, decide: Callable[[Logits, Logits], Decision], policy: Policy
) -> Decision:
    """Return the decision for a batch in which only some rows can be tested. Mark the other rows as untested.

    Args:
        original: (N, K) logits of the original network.
        clipped: (N, K) logits of the clipped network on the same inputs.
        rows: (N,) bool, True for rows that can be tested; both networks' logits must be finite in these rows.
        decide: function that returns the decision for a batch; it receives only the rows that can be tested.
        policy: what to do with untested inputs.

    Returns:
        The decision for all N rows.
    """
    decision, tested = untested(original, policy), decide(original[rows], clipped[rows])
    for field in fields(Decision):
        getattr(decision, field.name)[rows] = getattr(tested, field.name)
    return decision


def untested(original: Logits, policy: Policy) -> Decision:
    """Return the decision for untested inputs: the original network's labels (`open`) or no labels (`closed`).

    Args:
        original: (N, K) logits of the original network. A row with NaN or infinity gets no label in either case.
        policy: what to do with untested inputs.

    Returns:
        The decision, in which every row is untested.

    Example:
        >>> logits = np.array([[1, 2, 3], [np.nan, 9, 0]], np.float32)
        >>> untested(logits, Policy(on_error="open")).labels.tolist()
        [2, -1]
        >>> untested(logits, Policy(on_error="closed")).labels.tolist()
        [-1, -1]
    """
    decided = np.where(rows_not_finite(original), ABSTAIN, original.argmax(axis=1))
    nothing = np.full(len(original), ABSTAIN, dtype=np.int64)
    labels = nothing if policy.when_untested == "closed" else decided
    return _without_test(labels.copy(), decided, nothing, Reason.UNTESTED)


def uncorrected(decision: Decision, policy: Policy) -> Decision:
    """Undo corrections that failed: use the original network's labels (`open`) or no labels (`closed`) instead.

    Args:
        decision: a decision with corrected rows.
        policy: what to do with rows that cannot be corrected.

    Returns:
        A new decision with no corrected rows; the flags are kept.
    """
    given = ABSTAIN if policy.when_untested == "closed" else decision.original_labels
    labels = np.where(decision.corrected, given, decision.labels)
    return replace(decision, labels=labels, corrected=np.zeros(len(decision), np.bool_))


def rows_of(decision: Decision, rows: BoolArray) -> Decision:
    """Return a copy of a decision for some rows of its batch.

    Args:
        decision: the decision for N inputs.
        rows: (N,) bool, True for the rows to keep.

    Returns:
        The decision for these rows.
    """
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
