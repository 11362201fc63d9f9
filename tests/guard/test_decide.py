"""What the guard answers for a flagged input."""

from typing import Any

import numpy as np
import pytest

from mmguard.bundle.manifest import OutputSpec
from mmguard.detection import margins
from mmguard.detection.margins import Readings
from mmguard.detection.mmdf import Criterion, MmdfTest
from mmguard.detection.null import GaussianNull
from mmguard.detection.statistics import ActivationDistance, ActivationExcess, MarginGap, OriginalMargin, ResidualNorm
from mmguard.guard.answer import guarded_outputs
from mmguard.guard.decide import corrected_model, decide, uncorrected, untested, with_rows
from mmguard.guard.policy import Mode, OnError, OnFlag, Policy

NULL = GaussianNull(0, 0.01, 100)
TEST = MmdfTest(
    (Criterion(MarginGap((0.0,) * 3, 0.0), NULL), Criterion(ResidualNorm((0.0,) * 3, 1.0), NULL)), 0.005, 0.005
)
ORIGINAL = np.array([[4, 0, 0], [4, 0, 0], [4, 0, 0]], np.float32)
CLIPPED = np.array(
    [
        [2, 1, 0],  # confidence is lost, though not the decision
        [0, 1, 2],  # the decision is lost
        [6, 1, 0],  # improbable, but the decision is surer than before
    ],
    np.float32,
)
READ = Readings(ORIGINAL, CLIPPED)


def with_activations(distance: float, excess: float = 0.0) -> Readings:
    """Those logits, with this distance at one site and this excess."""
    return Readings(ORIGINAL, CLIPPED, np.tile(np.array([distance, excess], np.float32), (3, 1)))


@pytest.mark.parametrize(
    ("on_flag", "labels"), [("correct", [1, 2, 0]), ("abstain", [-1, -1, -1]), ("original", [0, 0, 0])]
)
def test_a_flagged_input_is_answered_by_policy(on_flag: OnFlag, labels: list[int]) -> None:
    decision = decide(READ, TEST, Policy(on_flag=on_flag))
    assert decision.flagged.all()
    assert decision.labels.tolist() == labels
    assert decision.original_labels.tolist() == [0, 0, 0]
    assert decision.clipped_labels.tolist() == [0, 2, 0]
    assert decision.margin_gaps.tolist() == [3, 6, -1]
    assert decision.reasons.tolist() == ["confidence", "both", "confidence"]
    assert decision.corrected.tolist() == [on_flag == "correct" and label != 0 for label in labels]


def test_the_output_of_a_decision_that_stays_is_the_original_s_own() -> None:
    decision = decide(READ, TEST, Policy())
    output = guarded_outputs({"logits": ORIGINAL}, CLIPPED, decision, OutputSpec(("logits",), "logits"), None)["logits"]
    np.testing.assert_array_equal(output.argmax(axis=1), decision.labels)
    np.testing.assert_array_equal(output[2], ORIGINAL[2])
    np.testing.assert_array_equal(output[1], CLIPPED[1])


@pytest.mark.parametrize(("theta", "reasons"), [(1.0, ["confidence", "both"]), (0.0, ["none", "disagreement"])])
def test_a_disagreement_is_told_from_lost_confidence(theta: float, reasons: list[str]) -> None:
    gap = Criterion(MarginGap((0.0,) * 3, 0.0), GaussianNull(0, 100, 100))
    test = MmdfTest((gap,), theta, disagreement_theta=1.0)
    assert decide(READ.rows(np.arange(2)), test, Policy()).reasons.tolist() == reasons


def test_the_reason_is_the_evidence_that_is_the_most_improbable() -> None:
    """The gaps of the rows are 3, 6 and -1, their margins 4; what is the largest is chosen by the activations."""
    statistics = (MarginGap((0.0,) * 3, 0.0), ActivationDistance((0.0,), (1.0,)), ActivationExcess(), OriginalMargin())
    test = MmdfTest(tuple(Criterion(each, GaussianNull(0, 1, 100)) for each in statistics), 0.005, 0.005)
    for log_distance, log_excess, reasons in (
        (1.0, 1.0, ["margin", "both", "margin"]),
        (5.0, 1.0, ["activations", "both", "activations"]),
        (9.0, 1.0, ["activations"] * 3),
        (1.0, 5.0, ["activations", "both", "activations"]),
        (1.0, 9.0, ["activations"] * 3),
    ):
        decision = decide(with_activations(np.exp(log_distance), np.expm1(log_excess)), test, Policy())
        assert decision.reasons.tolist() == reasons
        assert decision.flagged.all()


def test_a_disagreement_above_theta_is_no_evidence_of_activations() -> None:
    test = MmdfTest((Criterion(ActivationDistance((0.0,), (1.0,)), GaussianNull(0, 1, 100)),), 0.005, 1.0)
    assert decide(with_activations(np.exp(1.0)), test, Policy()).reasons.tolist() == ["none", "disagreement", "none"]


@pytest.mark.parametrize(
    ("statistic", "read"),
    [
        (ActivationDistance((0.0,), (1.0,)), with_activations(np.exp(9.0))),
        (ActivationExcess(), with_activations(1.0, np.exp(9.0))),
    ],
    ids=["distance", "excess"],
)
def test_activations_unlike_those_of_the_decision_exclude_it_from_the_corrected_label(
    statistic: ActivationDistance | ActivationExcess, read: Readings
) -> None:
    """The last row's decision is surer than before, which clears it of a small residual, but not of its activations."""
    statistics = (MarginGap((0.0,) * 3, 0.0), statistic)
    test = MmdfTest(tuple(Criterion(each, GaussianNull(0, 1, 100)) for each in statistics), 0.005, 0.005)
    assert decide(read, test, Policy()).labels.tolist() == [1, 2, 1]


def test_an_input_that_is_not_flagged_keeps_the_original_s_label_though_the_networks_disagree() -> None:
    test = MmdfTest((Criterion(MarginGap((0.0,) * 3, 0.0), GaussianNull(0, 100, 100)),), 0.005, 0.005)
    decision = decide(READ, test, Policy())
    assert decision.labels.tolist() == [0, 0, 0]
    assert decision.clipped_labels.tolist() == [0, 2, 0]
    assert decision.reasons.tolist() == ["none"] * 3
    assert not decision.flagged.any()


def test_only_the_flagged_of_a_batch_are_answered_otherwise() -> None:
    test = MmdfTest((Criterion(MarginGap((0.0,) * 3, 0.0), GaussianNull(0, 2, 100)),), 0.005, 0.005)  # of gaps 3 and 6
    assert decide(READ.rows(np.arange(2)), test, Policy()).labels.tolist() == [0, 2]
    assert decide(READ.rows(np.arange(2)), test, Policy(on_flag="abstain")).labels.tolist() == [0, -1]


class Counted(np.ndarray[Any, Any]):
    """Logits that count how often their arg max is taken."""

    calls = 0

    def argmax(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return np.asarray(self).argmax(*arguments, **options)


def test_each_network_s_decisions_and_margins_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    margin, margins_of = margins.margin, list[Any]()

    def counted(logits: Any, labels: Any) -> Any:
        margins_of.append(logits)
        return margin(logits, labels)

    monkeypatch.setattr(margins, "margin", counted)
    original, clipped = ORIGINAL.view(Counted), CLIPPED.view(Counted)
    assert decide(Readings(original, clipped), TEST, Policy(on_flag="original")).flagged.all()
    assert (original.calls, clipped.calls) == (1, 1)
    assert [logits is clipped for logits in margins_of] == [True], "the original's best margins need no labels"


@pytest.mark.parametrize("mode", ["shadow", "enforce"])
def test_without_a_test_the_clipped_network_answers_unless_in_shadow(mode: Mode) -> None:
    decision = corrected_model(ORIGINAL, CLIPPED, Policy(mode=mode))
    assert decision.labels.tolist() == ([0, 0, 0] if mode == "shadow" else [0, 2, 0])
    assert decision.original_labels.tolist() == [0, 0, 0]
    assert decision.clipped_labels.tolist() == [0, 2, 0]
    assert decision.reasons.tolist() == ["none"] * 3
    assert not decision.flagged.any()
    assert not decision.corrected.any()


@pytest.mark.parametrize(
    ("policy", "labels"),
    [
        (Policy(on_error="open"), [2, -1, 1]),
        (Policy(on_error="closed"), [-1, -1, -1]),
        (Policy(mode="shadow", on_error="closed"), [2, -1, 1]),
        (Policy(mode="shadow", on_error="raise"), [2, -1, 1]),
    ],
)
def test_what_is_untested_is_answered_by_policy_and_never_where_the_original_decides_for_nothing(
    policy: Policy, labels: list[int]
) -> None:
    decision = untested(np.array([[1, 2, 3], [np.nan, 9, 0], [0, 5, 1]], np.float32), policy)
    assert decision.labels.tolist() == labels
    assert decision.original_labels.tolist() == [2, -1, 1]
    assert decision.clipped_labels.tolist() == [-1, -1, -1]
    assert decision.reasons.tolist() == ["untested"] * 3
    assert np.isnan([decision.p_values, decision.margin_gaps]).all()
    assert not decision.flagged.any()
    assert not decision.corrected.any()


def test_rows_that_can_be_judged_are_and_the_others_are_untested() -> None:
    rows, policy = np.array([True, False, True]), Policy(on_error="open")
    read = Readings(ORIGINAL, np.where(rows[:, None], CLIPPED, np.nan))
    decision = with_rows(untested(read.original, policy), rows, decide(read.rows(rows), TEST, policy))
    assert decision.labels.tolist() == [1, 0, 0]
    assert decision.clipped_labels.tolist() == [0, -1, 0]
    assert decision.reasons.tolist() == ["confidence", "untested", "confidence"]
    assert decision.flagged.tolist() == [True, False, True]
    assert decision.corrected.tolist() == [True, False, False]
    np.testing.assert_array_equal(decision.margin_gaps, [3, np.nan, -1])


@pytest.mark.parametrize(("on_error", "labels"), [("open", [0, 0, 0]), ("closed", [-1, -1, 0])])
def test_a_correction_that_fails_leaves_the_flag_and_is_answered_by_policy(
    on_error: OnError, labels: list[int]
) -> None:
    decision = uncorrected(decide(READ, TEST, Policy()), Policy(on_error=on_error))
    assert decision.labels.tolist() == labels
    assert decision.flagged.tolist() == [True] * 3
    assert decision.corrected.tolist() == [False] * 3
