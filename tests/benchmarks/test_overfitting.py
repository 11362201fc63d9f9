import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmguard
from benchmarks import cifar, overfitting, overfitting_grid
from benchmarks.guarded import BOTH
from benchmarks.overfitting import Place, run_cells
from benchmarks.overfitting_grid import Cell, cells, small_cells
from benchmarks.suspect import CleanSet
from benchmarks.train import OutOfTimeError
from benchmarks.training.imbalance import PROFILES
from benchmarks.training.networks import NETWORKS
from tests.benchmarks.synthetic import Tiny, synthetic_cifar

DATA = synthetic_cifar(1000, 300)
PLAIN = Cell("cifar10", "step-10", epochs=3)
CLIPPED = Cell("cifar10", "step-10", epochs=3, mitigation="MMAC")
MMOM = Cell("cifar10", "step-10", epochs=3, mitigation="MMOM", weight=1e-5)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, overfitting_grid.NETWORK, Tiny)
    monkeypatch.setitem(overfitting_grid.PER_CLASS, "cifar10", 5)
    monkeypatch.setattr(cifar, "load", lambda name, folder: DATA)
    monkeypatch.setattr(overfitting, "ROUNDS", 1)


def test_the_grid_has_every_cell_of_the_tables() -> None:
    grid = cells()
    assert len(set(grid)) == len(grid) == len({cell.name for cell in grid})
    imbalanced = [name for name in PROFILES if name != "balanced"]
    for data in ("cifar10", "cifar100"):
        for profile in imbalanced:  # Tables 2 and 4
            kinds = {(c.objective, c.mitigation) for c in grid if (c.data, c.profile, c.epochs) == (data, profile, 200)}
            assert kinds == {(o, m) for o in ("CE", "GCL") for m in ("none", "MMOM")} | {
                ("CE", "MMAC"),
                ("mixup", "none"),
            }
        balanced = {c.mitigation for c in grid if (c.data, c.profile) == (data, "balanced")}
        assert balanced == {"none", "MMOM"}  # Table 5
    over = [c for c in grid if c.epochs == 1000]
    assert {(c.data, c.profile, c.objective, c.mitigation) for c in over} == {
        ("cifar10", "LT-100", "CE", "none"),
        ("cifar10", "LT-100", "CE", "MMOM"),
    }
    varied = {c.weight for c in grid if (c.data, c.profile, c.objective, c.epochs) == ("cifar10", "LT-100", "CE", 200)}
    assert varied == {None, 0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3}  # Table 3


def test_the_grid_trains_each_network_once() -> None:
    recipes = [cell.recipe for cell in cells()]
    changes = sum(a != b for a, b in pairwise(recipes))
    assert changes + 1 == len(set(recipes)) == 2 * 4 * 3 + 2 + 1
    assert all(recipe.network == "resnet32" and recipe.attack == "none" for recipe in recipes)


def test_the_small_grid_is_before_and_after_mmom_on_every_profile() -> None:
    grid = small_cells("resnet20", 20)
    assert {(c.profile, c.mitigation) for c in grid} == {(p, m) for p in PROFILES for m in ("none", "MMOM")}
    assert all(c.recipe.network == "resnet20" and c.recipe.epochs == 20 for c in grid)
    assert not {c.name for c in grid} & {c.name for c in cells()}
    assert grid[0].name.startswith("resnet20-cifar10-balanced-CE-20epochs")


def test_cells_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, results = Place(tmp_path / "networks"), tmp_path / "results"
    run_cells([PLAIN, MMOM, CLIPPED], results, place)
    assert sorted(path.stem for path in results.iterdir()) == sorted([PLAIN.name, MMOM.name, CLIPPED.name])
    plain, mmom, clipped = (json.loads((results / f"{cell.name}.json").read_text()) for cell in (PLAIN, MMOM, CLIPPED))
    for record in (plain, mmom, clipped):
        check(record)
    assert plain["calibration"] is None
    for record, objective in ((mmom, "mmom"), (clipped, "mmac")):
        assert record["settings"]["objective"] == objective
        assert record["calibration"]["n"] == 50
        assert record["calibration"]["rounds"] == 1
        assert record["mitigation_seconds"] > 0
        assert record["network"] == plain["network"]
    assert mmom["settings"]["margin_weight"] == mmom["weight"] == 1e-5

    monkeypatch.setattr(overfitting, "measure", lambda cell, place: pytest.fail(f"{cell.name} is there"))
    run_cells([PLAIN, MMOM, CLIPPED], results, place)


def check(record: dict[str, Any]) -> None:
    assert record["images"] == 250
    assert record["class_sizes"] == [100] * 5 + [10] * 5
    assert len(record["per_class_accuracy"]) == 10
    assert np.mean(record["per_class_accuracy"]) == pytest.approx(record["accuracy"])
    assert record["training_seconds"] > 0
    assert record["recipe"]["profile"] == "step-10"
    assert {"hardware", "versions", "date"} <= record.keys()


def test_a_clipped_cell_is_of_the_clipped_network(tmp_path: Path) -> None:
    place = Place(tmp_path)
    suspect = overfitting.network_of(CLIPPED, place)
    chosen, unseen = cifar.calibration_split(DATA.y_test, 5, 0)
    clean = CleanSet(DATA.x_test[chosen], DATA.y_test[chosen])
    network, _ = overfitting.mitigate(CLIPPED, suspect, clean, place)
    with mmguard.Guard(suspect.path.parent / f"{CLIPPED.name}.mmguard", policy=BOTH, registry=None) as guard:
        x = DATA.x_test[unseen]
        decision = guard(suspect.exported.inputs(x))
    assert np.array_equal(network.labels(x), decision.clipped_labels)
    assert np.array_equal(suspect.exported.labels(x), decision.original_labels)


def test_out_of_time_leaves_what_is_done_and_goes_on(tmp_path: Path) -> None:
    late, results = Place(tmp_path / "networks", deadline=0), tmp_path / "results"
    with pytest.raises(OutOfTimeError, match="run again"):
        run_cells([PLAIN], results, late)
    assert not list(results.iterdir())
    run_cells([PLAIN], results, Place(tmp_path / "networks"))
    with pytest.raises(OutOfTimeError, match=CLIPPED.name):
        run_cells([PLAIN, CLIPPED], results, late)


def test_the_list_says_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{PLAIN.name}.json").touch()
    overfitting.show([PLAIN, CLIPPED], tmp_path)
    assert capsys.readouterr().out.splitlines() == [f"{PLAIN.name}: done", f"{CLIPPED.name}: open"]
