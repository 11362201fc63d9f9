from typing import Any

import numpy as np
import pytest

from benchmarks import cifar, detection
from benchmarks.cells import Cell
from benchmarks.detection import against, histogram, measure, sample
from benchmarks.detectors import MaxSoftmax, Strip, Verdicts
from benchmarks.suspect import Suspect
from tests.benchmarks.synthetic import synthetic_cifar


def verdicts(scores: list[float], threshold: float) -> Verdicts:
    values = np.array(scores)
    return Verdicts(values, values > threshold)


def test_figures_are_of_triggered_inputs_that_win() -> None:
    clean, triggered = verdicts([0, 1, 2, 3], 2.5), verdicts([9, 8, -5, 2.2], 2.5)
    record: Any = against(clean, triggered, np.array([True, True, False, True]))
    assert record["triggered_images"] == 4
    assert record["winning_images"] == 3
    assert record["auroc"] == 11 / 12
    assert record["auroc_of_all_triggered"] == 11 / 16
    assert record["true_positive_rate"] == 2 / 3
    assert record["true_positive_rate_at"] == {"0.005": 2 / 3, "0.01": 2 / 3}
    assert record["curve"]["true_positive_rate"][-1] == 1.0


def test_where_no_triggered_input_wins_only_figures_of_all_of_them_are_left() -> None:
    record = against(verdicts([0, 1], 2), verdicts([0.5, 3], 2), np.array([False, False]))
    assert record == {"triggered_images": 2, "winning_images": 0, "auroc_of_all_triggered": 3 / 4}


def test_a_histogram_counts_every_input_once() -> None:
    generator = np.random.default_rng(0)
    counts: Any = histogram(generator.normal(size=1000), generator.normal(50, 1, size=500))
    assert sum(counts["clean"]) == 1000
    assert sum(counts["triggered"]) == 500
    assert len(counts["edges"]) == len(counts["clean"]) + 1
    assert sum(histogram(np.ones(3), np.ones(0))["clean"]) == 3


def test_a_slow_detector_is_measured_on_fewer_images() -> None:
    fast, slow = MaxSoftmax(), Strip()
    assert len(sample(9500, fast, 0)) == 9500
    rows = sample(9500, slow, 0)
    assert len(rows) == len(set(rows)) == 1980
    assert rows.max() > 9000


def test_a_cell_from_end_to_end(suspect: Suspect, monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic_cifar()
    monkeypatch.setattr(cifar, "load", lambda name, folder: data)
    monkeypatch.setattr(Suspect, "load", lambda name: suspect)
    record: Any = measure(Cell(suspect.name, "original margin", per_class=5))
    assert record["clean_images"] == len(data.y_test) - 50
    assert record["winning_images"] <= record["triggered_images"] == (data.y_test != 0).sum() - 45
    assert 0 <= record["auroc"] <= 1
    assert record["forwards"] == 1


def test_every_detector_gets_fifty_images_a_class_and_then_those_of_its_own_paper() -> None:
    grid = [(cell.network, cell.method, cell.per_class) for cell in detection.cells(["a"], ["STRIP", "MMDF"])]
    assert grid == [("a", "STRIP", 50), ("a", "MMDF", 50), ("a", "STRIP", 200)]
    assert {cell.per_class for cell in detection.cells(["a"], ["SCALE-UP data-free"])} == {50}
