"""One progress over all phases of a calibration: what is announced is what is done, and takes as long as was said."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from mmguard.calibrate.audit import search as audit_search
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.progress import Measured, Progress, Schedule, Task
from mmguard.calibrate.workload import run_inputs
from mmguard.settings.presets import PRESETS
from mmguard.settings.settings import Settings
from tests.networks import write_tiny
from tests.quick import QUICK, calibrate

PHASES = ["reading", "learning", "audit", "writing"]
ENDLESS = 1e9
"""Minutes."""


class Clock:
    """Seconds that pass by work alone: three a pass of an input with its gradient, one a forward pass."""

    def __init__(self, patch: pytest.MonkeyPatch, dearer: float = 1.0) -> None:
        self.now, forward, record = 0.0, DifferentiableGraph.forward, DifferentiableGraph.record

        def pass_forward(graph: DifferentiableGraph, x: Tensor, bounds: Any = None) -> Tensor:
            result = forward(graph, x, bounds)
            self.now += len(x) * (3 if result.requires_grad else 1) * (dearer if bounds else 1)
            return result

        def pass_recorded(graph: DifferentiableGraph, x: Tensor, values: Any, bounds: Any = None) -> dict[str, Tensor]:
            recorded = record(graph, x, values, bounds)
            differentiated = any(value.requires_grad for value in recorded.values())
            self.now += len(x) * (3 if differentiated else 1) * (dearer if bounds else 1)
            return recorded

        def run(file: Path, x: np.ndarray[Any, Any], *_: object) -> None:
            self.now += len(x)

        patch.setattr(DifferentiableGraph, "forward", pass_forward)
        patch.setattr(DifferentiableGraph, "record", pass_recorded)
        patch.setattr("mmguard.pipeline.write_bundle.check_export", run)
        patch.setattr("mmguard.pipeline.schedule.time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Progress]]:
    """Calibrates the tiny network under that clock, and returns all that it said of itself."""

    def run(settings: Settings, dearer: float = 1.0, **options: Any) -> list[Progress]:
        said: list[Progress] = []
        with monkeypatch.context() as patch:
            Clock(patch, dearer)
            model = write_tiny(tmp_path / "tiny.onnx")
            options = {"audit_minutes": ENDLESS} | options
            calibrate(tmp_path, model, settings=settings, on_progress=said.append, **options)
        return said

    return run


WAYS = {
    "tight": QUICK,
    "searching": Settings(penalty="margins", rounds=4, folds=1, budget=None, first_steps=6, maximisers=3),
    "anew": Settings(penalty="margins", rounds=5, folds=2, budget=None, first_steps=6, maximisers=3, renew_every=2),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dearer", [1.0, 1.5])
def test_the_time_that_is_said_to_remain_is_the_time_it_takes_over_all_phases(
    watched: Callable[..., list[Progress]], way: str, dearer: float
) -> None:
    """`dearer`: a pass with bounds takes so many times as long as one without, as it does on real networks."""
    said = watched(WAYS[way], dearer)
    assert list(dict.fromkeys(each.phase for each in said)) == PHASES
    assert said[0].remaining is None
    standings = said[1:]
    whole = standings[-1].elapsed
    for each in standings:
        assert each.remaining is not None
        assert each.elapsed + each.remaining == pytest.approx(whole, rel=0.05 if dearer == 1 else 0.15), each
    assert standings[0].elapsed < 0.02 * whole, "it was said before anything was learned"
    shares = [each.share for each in standings]
    assert (np.diff(shares) > -0.02).all()
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)


def test_the_estimate_grows_with_the_classes() -> None:
    x = np.zeros((50, 3, 8, 8), np.float32)
    ten, hundred, thousand = (audit_search.search_inputs(x, classes, classes) for classes in (10, 100, 1000))
    assert hundred > 2 * ten
    assert thousand == pytest.approx(2 * hundred, rel=0.5), "at least two inputs a class"


def test_without_the_audit_nothing_is_said_of_it(watched: Callable[..., list[Progress]]) -> None:
    said = watched(QUICK, audit=False)
    assert list(dict.fromkeys(each.phase for each in said)) == ["reading", "learning", "writing"]
    whole, audited = said[-1].elapsed, watched(QUICK)[-1].elapsed
    assert whole < audited
    assert said[1].remaining == pytest.approx(whole, rel=0.1)


def test_rounds_that_end_early_are_taken_off(watched: Callable[..., list[Progress]]) -> None:
    said = watched(Settings(rounds=30, tolerance=1e9, folds=2), audit=False)
    last = [each for each in said if each.phase == "learning"][-1]
    assert last.remaining is not None
    assert last.elapsed + last.remaining < 0.5 * (said[1].remaining or 0)


@pytest.mark.parametrize("done", [1, 2, 3, 4])
def test_what_is_left_of_a_run_is_what_was_not_done(done: int) -> None:
    for settings in (*WAYS.values(), PRESETS["paper"], PRESETS["reference"]):
        rest = run_inputs(settings, 90, 4, done)
        assert rest < run_inputs(settings, 90, 4, done - 1)


def test_a_schedule_goes_by_what_its_kind_of_work_took_so_far() -> None:
    said: list[Progress] = []
    now = [0.0]
    tasks = [
        Task("learning", "a", "learning", 10),
        Task("learning", "b", "learning", 10),
        Task("audit", "c", "audit", 5),
    ]
    steps = {"learning": Measured(1, 2.0), "audit": Measured(2, 8.0)}
    schedule = Schedule(tasks, steps, said.append, lambda: now[0])
    assert schedule.phases() == {"learning": 40.0, "audit": 20.0}
    schedule.begin()
    assert said[-1] == Progress("learning", "a", 0.0, 0.0, 60.0)
    now[0] = 36.0  # nine inputs at four seconds, and the measured one at two
    schedule.add(9)
    assert said[-1].remaining == pytest.approx(3.8 * 11 + 20)
    schedule.begin()
    assert said[-1].task == "b"
    assert said[-1].remaining == pytest.approx(3.8 * 10 + 20), "what was left of the task before is not done"
    schedule.begin()
    now[0] += 21.0
    schedule.add(3)
    assert said[-1].remaining == pytest.approx(29 / 5 * 2)
    assert said[-1].share == pytest.approx(1 - (29 / 5 * 2) / (3.8 * 20 + 29))
