"""How sure a corrected label is, and what happens to labels that are not sure enough."""

import numpy as np
import pytest

from mmguard.bundle.manifest import OutputSpec
from mmguard.detection.margins import Readings
from mmguard.detection.mmdf import Criterion, MmdfTest
from mmguard.detection.null import GaussianNull
from mmguard.detection.statistics import ActivationDistance, MarginGap
from mmguard.errors import OptionError
from mmguard.guard.answer import guarded_outputs
from mmguard.guard.decide import decide
from mmguard.guard.policy import Policy
from mmguard.types import Decision

NULL = GaussianNull(0, 0.01, 100)
GAP = MmdfTest((Criterion(MarginGap((0.0,) * 3, 0.0), NULL),), 0.005, 0.005)
FAR = MmdfTest((Criterion(ActivationDistance((0.0,), (1.0,)), NULL),), 0.005, 0.005)
ORIGINAL = np.array([[9, 0, 0], [9, 0, 0], [9, 0, 0]], np.float32)
CLIPPED = np.array([[2, 1, 0], [0, 1, 3], [9, 0, 0]], np.float32)


def decided(test: MmdfTest, policy: Policy, rows: slice = slice(None)) -> Decision:
    return decide(Readings(ORIGINAL[rows], CLIPPED[rows], np.tile([1e9, 0.0], (3, 1))[rows]), test, policy)


def test_a_label_that_lost_confidence_is_as_sure_as_the_softmax_over_the_other_classes() -> None:
    decision = decided(GAP, Policy(), slice(2))
    assert decision.labels.tolist() == [1, 2]
    np.testing.assert_allclose(decision.confidences, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))])


def test_belief_in_the_original_s_decision_counts_against_a_label_that_only_activations_speak_for() -> None:
    gains = np.array([[20, 1, 0]], np.float32)  # the clipped network is even surer of class 0
    decision = decide(Readings(ORIGINAL[:1], gains, np.array([[1e9, 0.0]])), both_tests(), Policy())
    assert decision.reasons.tolist() == ["activations"]
    assert decision.labels.tolist() == [1]
    np.testing.assert_allclose(decision.confidences, np.exp(1 - 20) / (1 + np.exp(-19) + np.exp(-20)))


def both_tests() -> MmdfTest:
    return MmdfTest((*GAP.criteria, *FAR.criteria), 0.005, 0.005)


def test_a_label_below_the_least_confidence_is_withheld() -> None:
    sure = decided(GAP, Policy(min_confidence=0.8), slice(2))
    assert sure.labels.tolist() == [-1, 2]
    assert sure.flagged.tolist() == [True, True]
    assert sure.corrected.tolist() == [False, True]
    assert sure.confidences[0] == pytest.approx(0.731, abs=1e-3)
    outputs = guarded_outputs({"y": ORIGINAL[:2]}, CLIPPED[:2], sure, OutputSpec(("y",), "y"), None)
    assert np.isnan(outputs["y"][0]).all()
    assert outputs["y"][1].argmax() == 2


def test_nothing_is_withheld_by_default_and_nothing_without_a_proposed_label() -> None:
    assert decided(GAP, Policy()).corrected.tolist() == [True, True, False]
    unflagged = decided(GAP, Policy(min_confidence=1.0))
    assert unflagged.labels.tolist() == [-1, -1, 0]
    assert np.isnan(unflagged.confidences[2])
    assert np.isnan(decided(GAP, Policy(on_flag="abstain")).confidences).all()
    assert np.isnan(decided(GAP, Policy(mode="shadow")).confidences).all()


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_a_least_confidence_out_of_range_is_refused(least: float) -> None:
    with pytest.raises(OptionError, match="min_confidence must be a number from 0 to 1"):
        Policy(min_confidence=least)


def test_two_classes_leave_a_label_as_sure_as_the_softmax_over_both() -> None:
    test = MmdfTest((Criterion(MarginGap((0.0,) * 2, 0.0), NULL),), 0.005, 0.005)
    read = Readings(np.array([[9, 0]], np.float32), np.array([[1, 0]], np.float32))
    np.testing.assert_allclose(decide(read, test, Policy()).confidences, [1 / (1 + np.exp(1))])
    assert decide(read, test, Policy(min_confidence=0.5)).labels.tolist() == [-1]
