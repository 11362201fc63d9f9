from typing import Any

import numpy as np
import pytest

from benchmarks import cifar
from benchmarks.audit import METHOD, measure, others, verdict
from benchmarks.cells import Cell
from benchmarks.suspect import Suspect
from mmguard.calibrate.audit import plan
from mmguard.detection.audit import audit
from tests.benchmarks.synthetic import synthetic_cifar

MARGINS = {"sample": np.array([9.0, 60.0, 8.0, 10.0, 9.5, 11.0])}


@pytest.mark.parametrize(("targets", "right"), [([1], True), ([0], False), ([], False), ([0, 1, 2, 3, 4, 5], True)])
def test_an_alarm_is_right_where_it_names_a_target(targets: list[int], right: bool) -> None:
    record: Any = verdict(audit(MARGINS), targets)
    assert (record["backdoored"], record["suspect"], record["right"]) == (True, 1, right)
    assert record["scales"]["sample"]["margins"] == MARGINS["sample"].tolist()


@pytest.mark.parametrize(("targets", "right"), [([1], False), ([], True)])
def test_silence_is_right_where_there_is_no_target(targets: list[int], right: bool) -> None:
    record: Any = verdict(audit({"sample": np.delete(MARGINS["sample"], 1)}), targets)
    assert (record["backdoored"], record["right"]) == (False, right)


def test_the_other_classes_are_judged_without_the_target() -> None:
    assert others(MARGINS, [1])["p_value_of_others"] > 0.05
    assert others(MARGINS, []) == {"p_value_of_others": audit(MARGINS).p_value}
    assert others(MARGINS, [0, 1]) == {}


def test_a_cell_from_end_to_end(suspect: Suspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "load", lambda name, folder: synthetic_cifar())
    monkeypatch.setattr(Suspect, "load", lambda name: suspect)
    for steps in ("ALONE_STEPS", "APART_STEPS", "SHARED_STEPS", "PLACING_STEPS"):
        monkeypatch.setattr(plan, steps, 2)
    record: Any = measure(Cell(suspect.name, METHOD, per_class=5))
    assert record["targets"] == [0]
    assert set(record["scales"]) - {"orthogonal"} == {"sample", "shared", "pixels", "warp"}
    assert 0 <= record["p_value"] <= 1
