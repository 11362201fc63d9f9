"""Turns both networks' logits into a decision. Its arrays share no memory, so callers may modify each array."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from mmguard.detection.margins import Readings, exclude_class
from mmguard.detection.mmdf import MmdfTest, Verdicts
from mmguard.guard.policy import Policy
from mmguard.guard.ran import Screened
from mmguard.inputs.batch_checks import rows_not_finite
from mmguard.types import ABSTAIN, BoolArray, Decision, FloatArray, IntArray, Reason

Logits = npt.NDArray[np.float32]
REASONS = {
    "confidence": (Reason.CONFIDENCE, Reason.BOTH),
    "activations": (Reason.ACTIVATIONS, Reason.ACTIVATIONS),
    "margin": (Reason.MARGIN, Reason.MARGIN),
}
"""Reasons by kind of evidence: if the networks agree, and if they disagree."""
REASON_TYPE = np.array(list(Reason), np.str_).dtype


def decide(
    read: Readings, test: MmdfTest, policy: Policy, look_again: Callable[[IntArray], Logits] | None = None
) -> Decision:
    """Test a batch and choose its labels.

    Args:
        read: readings of N inputs. The caller must check that they are finite.
        test: the bundle's test.
        policy: what to do with flagged inputs.
        look_again: takes the row numbers of the flagged inputs, and returns the logits (N, K) from which these inputs
            are labelled; None to label them from the clipped network's logits.

    Returns:
        The decision.
    """
    verdicts = test.verdicts(read)
    flagged, labels = verdicts.flagged, read.decisions.copy()
    reasons = _reasons(verdicts, test)
    confidences = np.full(len(labels), np.nan)
    if policy.corrects:
        answers = read.clipped if look_again is None else look_again(np.flatnonzero(flagged))
        labels[flagged] = answers[flagged].argmax(axis=1)
        doubted = flagged & (verdicts.lost_confidence | (reasons == Reason.ACTIVATIONS))
        labels[doubted] = exclude_class(answers[doubted], read.decisions[doubted]).argmax(axis=1)
        proposed = labels != read.decisions
        excluded = np.where(verdicts.lost_confidence & (answers.shape[1] > 2), read.decisions, ABSTAIN)
        confidences[proposed] = _confidences(answers[proposed], labels[proposed], excluded[proposed])
        labels[proposed & (confidences < policy.min_confidence)] = ABSTAIN
    elif policy.abstains:
        labels[flagged] = ABSTAIN
    return Decision(
        labels=labels,
        original_labels=read.decisions,
        clipped_labels=read.clipped_decisions,
        flagged=flagged,
        corrected=(labels != read.decisions) & (labels != ABSTAIN) & policy.corrects,
        reasons=reasons,
        p_values=verdicts.p_values,
        margin_gaps=read.margin_gaps,
        confidences=confidences,
    )


def _confidences(answers: Logits, labels: IntArray, excluded: IntArray) -> FloatArray:
    """Return the probability (n,) of each label by logits (n, K).

    Where clipping itself speaks against the original network's decision, that class is in `excluded` (n,), and the
    probability is that among the other classes. Elsewhere (-1), belief in that decision counts against the label; this
    includes models with two classes, of which excluding one would leave nothing to be unsure of.
    """
    logits = answers.astype(np.float64)
    rows = np.flatnonzero(excluded != ABSTAIN)
    logits[rows, excluded[rows]] = -np.inf
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: FloatArray = powers[np.arange(len(labels)), labels] / powers.sum(axis=1)
    return probabilities


def _reasons(verdicts: Verdicts, test: MmdfTest) -> npt.NDArray[np.str_]:
    """Return the reason (N,) for each flag, and `none` for inputs that are not flagged."""
    reasons = np.where(verdicts.disagreement, Reason.DISAGREEMENT, Reason.NONE).astype(REASON_TYPE)
    for number, criterion in enumerate(test.criteria):
        own = verdicts.improbable & (verdicts.evidence == number)
        agreeing, disagreeing = REASONS[criterion.statistic.evidence]
        reasons[own] = agreeing
        reasons[own & verdicts.disagreement] = disagreeing
    return reasons


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


def with_rows(decision: Decision, rows: BoolArray, others: Decision) -> Decision:
    """Replace some rows of a decision.

    Args:
        decision: the decision for N inputs; it is changed.
        rows: (N,) bool, True for the n rows to replace.
        others: the decision for these n rows.

    Returns:
        The decision that was passed in.
    """
    for field in fields(Decision):
        getattr(decision, field.name)[rows] = getattr(others, field.name)
    return decision


def passed(screened: Screened) -> Decision:
    """Return the decision for inputs that passed the screen, so that the clipped network did not run on them.

    Args:
        screened: what the screen says of N inputs.

    Returns:
        The decision for all N inputs, in which nothing is flagged and the clipped network's labels are -1.
    """
    labels, p_values = screened.decisions, screened.p_values
    nothing = np.full(len(labels), ABSTAIN, dtype=np.int64)
    return _without_test(labels.copy(), labels.copy(), nothing, Reason.NONE, p_values.copy())


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


def _without_test(
    labels: IntArray,
    original_labels: IntArray,
    clipped_labels: IntArray,
    reason: Reason,
    p_values: FloatArray | None = None,
) -> Decision:
    n = len(labels)
    return Decision(
        labels=labels,
        original_labels=original_labels,
        clipped_labels=clipped_labels,
        flagged=np.zeros(n, np.bool_),
        corrected=np.zeros(n, np.bool_),
        reasons=np.full(n, reason, dtype=REASON_TYPE),
        p_values=np.full(n, np.nan) if p_values is None else p_values,
        margin_gaps=np.full(n, np.nan),
        confidences=np.full(n, np.nan),
    )
