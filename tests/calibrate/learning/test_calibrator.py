"""MMAC on the tiny network, in which one channel alone carries the backdoor of class 2."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from mmguard.calibrate.audit.search import maximum_margins
from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning import calibrator as calibrator_module
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.calibrate.learning.calibrator import Calibrator, Round
from mmguard.calibrate.learning.margin_search import MarginSearch
from mmguard.calibrate.learning.objective import bound_norm
from mmguard.detection.margins import margin_gap
from mmguard.errors import CleanSetError
from mmguard.settings.presets import MARGINS, PRESETS
from mmguard.settings.presets import preset as find_preset
from mmguard.settings.settings import Settings
from mmguard.types import Calibration
from tests.bundles import SITES, TARGET, TRIGGER_CHANNEL, Array, add_trigger, clean_inputs, tiny_network

QUICK = replace(
    MARGINS,
    rounds=6,
    maximisers=8,
    first_steps=15,
    warm_steps=3,
    batch=40,
    learning_rate=0.05,
    margin_weight=1.0,
)
"""Eq. 4 as it stands, λ constant."""
TIGHT = Settings(maximisers=8, first_steps=15)
"""The default's penalty."""
CLEAN = clean_inputs(80)
BOX = Box(torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
VALUES = [site.value for site in SITES]


def ignore(report: Round) -> None:
    pass


def calibrate(
    settings: Settings = QUICK,
    seed: int = 0,
    on_round: Callable[[Round], None] = ignore,
    model: onnx.ModelProto | None = None,
) -> Calibration:
    graph = DifferentiableGraph(ir.from_proto(model or tiny_network().model()), "logits")
    return Calibrator(graph, dict.fromkeys(VALUES, 1), CLEAN, BOX, settings, seed).run(on_round)


def run(
    graph: DifferentiableGraph,
    x: Array,
    bounds: dict[str, Array] | None,
) -> Array:
    """Logits of the network with these bounds."""
    tensors = None if bounds is None else {value: torch.from_numpy(bound) for value, bound in bounds.items()}
    logits: Array = graph(torch.from_numpy(x), tensors).numpy()
    return logits


def margins(bounds: dict[str, Array] | None) -> Array:
    """(3,) by class, that a search of the network with these bounds reaches."""
    graph = DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")
    found: Array = maximum_margins(graph, CLEAN, BOX, 3, bounds).margins["sample"].astype(np.float32)
    return found


@pytest.fixture(scope="module")
def learned() -> Calibration:
    return calibrate()


def test_the_objective_falls_below_what_it_is_without_bounds(learned: Calibration) -> None:
    change = float(np.square(learned.clipped_logits - learned.original_logits).mean())
    before, after = (np.maximum(margins(bounds), 0).mean() for bounds in (None, learned.bounds))
    assert change + QUICK.margin_weight * after < 0.8 * QUICK.margin_weight * before


def test_the_margin_falls_round_by_round_where_lambda_stays() -> None:
    rounds: list[Round] = []
    calibrate(on_round=rounds.append)
    assert rounds[-1].objective < rounds[0].objective
    assert rounds[-1].penalty < rounds[0].penalty


def test_the_triggers_channel_is_clipped_and_the_trigger_seen(learned: Calibration) -> None:
    graph = DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")
    triggered = add_trigger(clean_inputs(50, seed=9))
    logits = [run(graph, triggered, bounds) for bounds in (None, learned.bounds)]
    assert (logits[0].argmax(axis=1) == TARGET).all()
    gaps = margin_gap(*logits)
    assert gaps.min() > margin_gap(learned.original_logits, learned.clipped_logits).max()
    assert learned.bounds["relu1"][TRIGGER_CHANNEL] < 0.5 * np.delete(learned.bounds["relu1"], TRIGGER_CHANNEL).min()


def test_what_is_returned_is_what_the_bounds_do(learned: Calibration) -> None:
    graph = DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")
    np.testing.assert_allclose(run(graph, CLEAN, None), learned.original_logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(graph, CLEAN, learned.bounds), learned.clipped_logits, rtol=1e-4, atol=1e-5)
    assert learned.rounds == QUICK.rounds


def test_bounds_are_one_a_channel_and_never_negative(learned: Calibration) -> None:
    assert {value: bound.shape for value, bound in learned.bounds.items()} == {
        site.value: (site.channels, 1, 1) for site in SITES
    }
    for bound in learned.bounds.values():
        assert bound.dtype == np.float32
        assert bound.min() >= 0
        assert np.isfinite(bound).all()


def test_a_dead_channel_gets_a_bound_of_zero_and_does_no_harm() -> None:
    model = tiny_network().model()
    for tensor in model.graph.initializer:
        if tensor.name == "conv1.bias":
            bias = numpy_helper.to_array(tensor).copy()
            bias[0] = -100
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    learned = calibrate(replace(QUICK, rounds=2), model=model)
    assert learned.bounds["relu1"][0] == 0
    assert np.isfinite(learned.clipped_logits).all()


def test_rounds_end_where_the_objective_no_longer_changes() -> None:
    rounds: list[Round] = []
    learned = calibrate(replace(QUICK, tolerance=1e9), on_round=rounds.append)
    assert (learned.converged, learned.rounds, len(rounds)) == (True, 2, 2)
    learned = calibrate(replace(QUICK, tolerance=0.0, rounds=3), on_round=rounds.append)
    assert (learned.converged, learned.rounds, len(rounds)) == (False, 3, 5)


def test_every_round_is_reported() -> None:
    rounds: list[Round] = []
    calibrate(on_round=rounds.append)
    assert [report.number for report in rounds] == [1, 2, 3, 4, 5, 6]
    assert {report.rounds for report in rounds} == {6}
    assert all(a.seconds < b.seconds for a, b in pairwise(rounds))
    assert rounds[-1].remaining == 0 < rounds[0].remaining
    for report in rounds:
        assert 0 <= report.agreement <= 1
        assert report.objective == pytest.approx(report.fit_loss + report.margin_weight * report.penalty)


def test_lambda_rises_after_a_round_that_kept_the_logits_and_falls_after_another() -> None:
    closed = replace(QUICK, agreement=1.0, bounds_start=0.01)
    for settings, factor in ((replace(QUICK, agreement=0.0), 1.2), (closed, 1 / 1.2)):
        rounds: list[Round] = []
        calibrate(replace(settings, margin_weight_factor=1.2, rounds=3), on_round=rounds.append)
        assert all((report.agreement >= settings.agreement) == (factor > 1) for report in rounds)
        weights = [report.margin_weight for report in rounds]
        assert weights == pytest.approx([1, factor, factor**2])


def test_lambda_is_steered_to_the_change_that_is_wanted() -> None:
    variance = calibrate(replace(TIGHT, rounds=1)).original_logits.var(axis=0, ddof=1).mean()
    for change in (0.01, 0.04):
        rounds: list[Round] = []
        calibrate(replace(TIGHT, budget=change), on_round=rounds.append)
        assert rounds[-1].fit_loss == pytest.approx(change * variance, rel=0.5)
        factors = [b.margin_weight / a.margin_weight for a, b in pairwise(rounds)]
        wanted = [np.clip((change * variance / report.fit_loss) ** 0.5, 1 / 1.4, 1.4) for report in rounds[:-1]]
        assert factors == pytest.approx(wanted, rel=1e-4)


def test_bounds_move_less_in_the_last_third_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def record(optimiser: torch.optim.Adam, *args: Any) -> Any:
        rates.append(optimiser.param_groups[0]["lr"])
        return step(optimiser, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    calibrate(replace(TIGHT, rounds=6, steps=2))
    assert rates == pytest.approx([0.06] * 8 + [0.02] * 4)
    rates.clear()
    calibrate(replace(QUICK, rounds=3))
    assert rates == pytest.approx([0.05] * 6)


def test_tight_bounds_close_the_triggers_channel_without_a_search() -> None:
    graph = DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")
    learned = calibrate(TIGHT)
    triggered = add_trigger(clean_inputs(50, seed=9))
    logits = [run(graph, triggered, bounds) for bounds in (None, learned.bounds)]
    assert (logits[0].argmax(axis=1) == TARGET).all()
    assert margin_gap(*logits).min() > margin_gap(learned.original_logits, learned.clipped_logits).max()
    assert margins(learned.bounds).max() < margins(None).max()


def test_lambda_may_wait_and_then_change_every_few_rounds() -> None:
    rounds: list[Round] = []
    waiting = replace(QUICK, agreement=0.0, margin_weight_factor=1.2, margin_weight_from=2, margin_weight_every=3)
    calibrate(waiting, on_round=rounds.append)
    assert [report.margin_weight for report in rounds] == pytest.approx([1, 1, 1.2, 1.2, 1.2, 1.44])


def test_the_search_may_start_anew_every_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str | tuple[bool, int]] = []
    ascend, restart = MarginSearch.ascend, MarginSearch.restart

    def record(search: MarginSearch, bounds: Any, steps: int) -> None:
        calls.append((bounds is None, steps))
        ascend(search, bounds, steps)

    def record_restart(search: MarginSearch) -> None:
        calls.append("restart")
        restart(search)

    monkeypatch.setattr(MarginSearch, "ascend", record)
    monkeypatch.setattr(MarginSearch, "restart", record_restart)
    calibrate(replace(QUICK, rounds=3, renew_every=2, first_steps=4, warm_steps=1, search_original=True))
    first = ["restart", (True, 4)]
    assert calls == [*first, (True, 1), (True, 1), *first, (True, 1)]
    calls.clear()
    calibrate(replace(QUICK, rounds=2, first_steps=4, warm_steps=1))
    assert calls == [*first, (False, 1), (False, 1)]


def test_mmom_learns_the_labels_where_mmac_keeps_the_decisions() -> None:
    graph = DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")
    labels = np.ones(len(CLEAN), dtype=np.int64)  # far from what it decides
    settings = replace(find_preset("default", "mmom"), rounds=15, learning_rate=0.1, maximisers=4, first_steps=2)
    calibrator = Calibrator(graph, dict.fromkeys(VALUES, 1), CLEAN, BOX, settings)
    rounds: list[Round] = []
    learned = calibrator.run(rounds.append, labels)
    before = learned.original_logits.argmax(axis=1) == labels
    after = learned.clipped_logits.argmax(axis=1) == labels
    assert after.mean() > before.mean()
    assert rounds[-1].fit_loss < rounds[0].fit_loss
    assert {report.margin_weight for report in rounds} == {1e-5}
    with pytest.raises(CleanSetError, match="labels"):
        calibrator.run(ignore)


def test_mmom_without_a_margin_term_still_learns_the_labels() -> None:
    graph = DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits")
    settings = replace(find_preset("default", "mmom"), rounds=15, learning_rate=0.1, maximisers=2, first_steps=1)
    calibrator = Calibrator(graph, dict.fromkeys(VALUES, 1), CLEAN, BOX, replace(settings, margin_weight=0.0))
    rounds: list[Round] = []
    calibrator.run(rounds.append, np.ones(len(CLEAN), dtype=np.int64))
    assert rounds[-1].fit_loss < 0.98 * rounds[0].fit_loss


def test_objectives_take_of_a_preset_what_is_theirs() -> None:
    mmom, mmbm = (find_preset("reference", objective) for objective in ("mmom", "mmbm"))
    assert not mmom.only_correct, "it learns most from what the model decides wrongly"
    assert mmbm.only_correct
    assert (mmbm.rounds, mmbm.bounds_start, mmbm.margin_weight) == (50, 8.0, 0.5)


def test_a_step_that_is_split_for_memory_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrate(replace(QUICK, rounds=2))
    monkeypatch.setattr(calibrator_module, "inputs_per_pass", lambda graph, x, most: 3)
    split = calibrate(replace(QUICK, rounds=2))
    for value, bound in whole.bounds.items():
        np.testing.assert_allclose(split.bounds[value], bound, rtol=1e-3, atol=1e-4)


def test_mmbm_shrinks_the_bounds_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    ascend = MarginSearch.ascend

    def record(search: MarginSearch, bounds: Any, count: int) -> None:
        steps.append(count)
        ascend(search, bounds, count)

    monkeypatch.setattr(MarginSearch, "ascend", record)
    settings = replace(find_preset("default", "mmbm"), rounds=5, maximisers=4, first_steps=2)
    rounds: list[Round] = []
    calibrate(settings, on_round=rounds.append)
    assert not steps
    assert rounds[-1].penalty < rounds[0].penalty
    start = Bounds.over(
        DifferentiableGraph(ir.from_proto(tiny_network().model()), "logits"),
        dict.fromkeys(VALUES, 1),
        iter([torch.from_numpy(CLEAN)]),
    )
    assert rounds[0].penalty <= float(bound_norm(start.fixed().values()))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_lowers_the_margins_and_keeps_more_than_half_of_the_decisions(preset: str) -> None:
    learned = calibrate(replace(PRESETS[preset], rounds=8, maximisers=8, first_steps=20))
    assert margins(learned.bounds).max() < margins(None).max()
    same = learned.clipped_logits.argmax(axis=1) == learned.original_logits.argmax(axis=1)
    assert same.mean() > 0.5


def test_the_same_seed_gives_the_same_bytes_of_bounds(learned: Calibration) -> None:
    again, other = calibrate(), calibrate(seed=1)
    for value, bound in learned.bounds.items():
        assert bound.tobytes() == again.bounds[value].tobytes()
    assert any(bound.tobytes() != other.bounds[value].tobytes() for value, bound in learned.bounds.items())
