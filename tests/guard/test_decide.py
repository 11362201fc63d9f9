"""What is answered for a flagged input."""

import numpy as np
import pytest

from mmguard.guard.answer import guarded_outputs
from mmguard.guard.decide import decide
from mmguard.guard.policy import OnFlag, Policy
from mmguard.manifest import OutputSpec
from mmguard.mmdf import Criterion, Gap, MmdfTest, Shift
from mmguard.stats import GaussianNull

NULL = GaussianNull(0, 0.01, 100)
TEST = MmdfTest((Criterion(Gap((0.0,) * 3, 0.0), NULL), Criterion(Shift((0.0,) * 3, 1.0), NULL)), 0.005, 0.005)
ORIGINAL = np.array([[4, 0, 0], [4, 0, 0], [4, 0, 0]], np.float32)
CLIPPED = np.array(
    [
        [2, 1, 0],  # confidence is lost, though not the decision
        [0, 1, 2],  # the decision is lost
        [6, 1, 0],  # improbable, but the decision is surer than before
    ],
    np.float32,
)


@pytest.mark.parametrize(
    ("on_flag", "labels"), [("correct", [1, 2, 0]), ("abstain", [-1, -1, -1]), ("original", [0, 0, 0])]
)
def test_a_flagged_input_is_answered_by_policy(on_flag: OnFlag, labels: list[int]) -> None:
    decision = decide(ORIGINAL, CLIPPED, TEST, Policy(on_flag=on_flag))
    assert decision.flagged.all()
    assert decision.labels.tolist() == labels
    assert decision.corrected.tolist() == [on_flag == "correct" and label != 0 for label in labels]


def test_the_output_of_a_decision_that_stays_is_the_original_s_own() -> None:
    decision = decide(ORIGINAL, CLIPPED, TEST, Policy())
    output = guarded_outputs({"logits": ORIGINAL}, CLIPPED, decision, OutputSpec(("logits",), "logits"), None)["logits"]
    np.testing.assert_array_equal(output.argmax(axis=1), decision.labels)
    np.testing.assert_array_equal(output[2], ORIGINAL[2])
    np.testing.assert_array_equal(output[1], CLIPPED[1])
