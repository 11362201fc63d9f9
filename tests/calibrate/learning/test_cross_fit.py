"""Cross-fitting: each part of D meets bounds that were learned without it."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.logits import logits_on
from mmguard.calibrate.learning.calibrator import Calibrator, Round
from mmguard.calibrate.learning.cross_fit import Listener, cross_fit, split_folds
from mmguard.calibrate.learning.descent import largest_pass
from mmguard.settings.settings import Settings
from mmguard.types import Calibration
from tests.bundles import SITES, Array, clean_inputs, tiny_network

SETTINGS = Settings(rounds=4, tolerance=0, maximisers=4, first_steps=3, warm_steps=1, batch=40, learning_rate=0.05)
CLEAN = clean_inputs(60)
BOX = Box(torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
GRAPH = DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")


def learned(
    folds: int, seen: list[Array] | None = None, rounds: list[Round] | None = None, logits: Array | None = None
) -> Calibration:
    def learner(x: Array, original_logits: Array | None) -> Calibrator:
        if seen is not None:
            seen.append(x)
        return Calibrator(
            GRAPH, dict.fromkeys((site.value for site in SITES), 1), x, BOX, SETTINGS, original_logits=original_logits
        )

    listener = Listener((rounds if rounds is not None else []).append)
    return cross_fit(learner, CLEAN, None, split_folds(len(CLEAN), folds, 0), listener, original_logits=logits)


def test_every_input_is_held_out_once() -> None:
    seen: list[Array] = []
    learned(4, seen)
    assert np.array_equal(seen[0], CLEAN)
    assert [len(x) for x in seen[1:]] == [45] * 4
    counts = [sum((part == x).all(axis=(1, 2, 3)).any() for part in seen[1:]) for x in CLEAN]
    assert counts == [3] * len(CLEAN)


def test_the_bounds_are_those_of_all_inputs() -> None:
    alone, folded = learned(1), learned(3)
    for value, bound in alone.bounds.items():
        np.testing.assert_array_equal(folded.bounds[value], bound)
    np.testing.assert_array_equal(alone.held_out_logits, alone.clipped_logits)
    assert not np.allclose(folded.held_out_logits, folded.clipped_logits)


def test_original_logits_that_are_known_change_nothing() -> None:
    logits = logits_on(GRAPH, CLEAN, "cpu", largest_pass(SETTINGS))
    computed, known = learned(3), learned(3, logits=logits)
    np.testing.assert_array_equal(computed.original_logits, logits)
    np.testing.assert_array_equal(known.held_out_logits, computed.held_out_logits)
    for value, bound in computed.bounds.items():
        assert known.bounds[value].tobytes() == bound.tobytes()


def test_bounds_change_inputs_more_that_they_never_saw() -> None:
    folded = learned(5)
    seen = np.square(folded.clipped_logits - folded.original_logits).mean()
    unseen = np.square(folded.held_out_logits - folded.original_logits).mean()
    assert unseen > seen


def test_more_parts_than_inputs_leave_out_one_input_each() -> None:
    rounds: list[Round] = []
    seen: list[Array] = []

    def learner(x: Array, original_logits: Array | None) -> Calibrator:
        seen.append(x)
        quick = replace(SETTINGS, rounds=1, first_steps=1)
        return Calibrator(GRAPH, dict.fromkeys((site.value for site in SITES), 1), x, BOX, quick)

    cross_fit(learner, CLEAN[:5], None, split_folds(5, 100, 0), Listener(rounds.append))
    assert [len(x) for x in seen] == [5, 4, 4, 4, 4, 4]
    assert rounds[-1].rounds == 6


@pytest.mark.parametrize("folds", [1, 3])
def test_rounds_are_counted_through(folds: int) -> None:
    rounds: list[Round] = []
    learned(folds, rounds=rounds)
    total = SETTINGS.rounds * (folds + 1 if folds > 1 else 1)
    assert [each.number for each in rounds] == list(range(1, total + 1))
    assert {each.rounds for each in rounds} == {total}
    assert rounds[-1].remaining == 0
