import json

import numpy as np

from mmguard.types import Decision, Reason


def test_a_decision_is_written_as_json_and_reads_the_same() -> None:
    decision = Decision(
        labels=np.array([1, -1, 2]),
        original_labels=np.array([1, 0, 2]),
        clipped_labels=np.array([1, 2, -1]),
        flagged=np.array([False, True, False]),
        corrected=np.array([False, False, False]),
        reasons=np.array([Reason.NONE, Reason.BOTH, Reason.UNTESTED], dtype=np.str_),
        p_values=np.array([0.5, 1e-9, np.nan]),
        margin_gaps=np.array([-0.25, 30.0, np.nan]),
        confidences=np.array([np.nan, 0.75, np.nan]),
    )
    assert repr(decision) == "Decision(3 inputs, 1 flagged, 1 untested)"
    assert json.loads(json.dumps(decision.to_dict(), allow_nan=False)) == {
        "labels": [1, -1, 2],
        "original_labels": [1, 0, 2],
        "clipped_labels": [1, 2, -1],
        "flagged": [False, True, False],
        "corrected": [False, False, False],
        "reasons": ["none", "both", "untested"],
        "p_values": [0.5, 1e-9, None],
        "margin_gaps": [-0.25, 30.0, None],
        "confidences": [None, 0.75, None],
    }


def test_a_decision_on_no_inputs_is_empty_lists() -> None:
    nothing, numbers = np.zeros(0, np.int64), np.zeros(0)
    marks = np.zeros(0, np.bool_)
    decision = Decision(nothing, nothing, nothing, marks, marks, np.zeros(0, np.str_), *[numbers] * 3)
    assert set(map(tuple, decision.to_dict().values())) == {()}
