"""The networks on features and series, their data and their triggers."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.arrays import __main__ as make
from benchmarks.arrays import data
from benchmarks.arrays.__main__ import RECIPES, ArrayRecipe, run
from benchmarks.arrays.attacks import ARRAY_ATTACKS, FixedValues, Tone
from benchmarks.arrays.data import CHARTS, COLUMNS, CUTS, DATA, LENGTH, Arrays, control_charts, diamonds
from benchmarks.arrays.networks import Standardise
from benchmarks.arrays.suspect import ArraySuspect
from benchmarks.attacks.protocol import Role
from benchmarks.suspect import ZOO

CSV = """"carat","cut","color","clarity","depth","table","price","x","y","z"
0.23,"Ideal","E","SI2",61.5,55,326,3.95,3.98,2.43
0.29,"Fair","J","IF",62.4,58,334,4.2,4.23,2.63
"""


def slopes(x: np.ndarray) -> np.ndarray:
    """Slope per step of the least-squares line of each series (N, 60)."""
    time = np.arange(LENGTH) - (LENGTH - 1) / 2
    fitted: np.ndarray = x @ time / (time @ time)
    return fitted


def test_charts_follow_their_equations() -> None:
    charts = control_charts("test")
    assert charts.x.shape == (6000, 1, LENGTH)
    by_class = {name: charts.x[charts.y == label, 0].astype(np.float64) for label, name in enumerate(CHARTS)}
    normal = by_class["normal"]
    assert np.abs(normal - 30).max() <= 6
    assert normal.mean() == pytest.approx(30, abs=0.1)  # its standard error is 0.014
    assert normal.var() == pytest.approx(12, rel=0.02)  # of a uniform variable in [-6, 6]; the standard error is 0.04
    for name, sign in (("increasing", 1), ("decreasing", -1)):
        assert sign * slopes(by_class[name]).mean() == pytest.approx(0.35, abs=0.01)  # the standard error is 0.003
    for name, sign in (("upward shift", 1), ("downward shift", -1)):
        rise = by_class[name][:, 40:].mean(axis=1) - by_class[name][:, :20].mean(axis=1)
        assert sign * rise.mean() == pytest.approx(13.75, abs=0.5)  # the standard error is 0.12
    assert by_class["cyclic"].var() == pytest.approx(12 + 158.3 / 2, rel=0.05)  # E[a²] of a in [10, 15] is 158.3


def test_no_chart_is_in_both_parts() -> None:
    known, held = (control_charts(part) for part in ("train", "test"))
    assert np.array_equal(held.x, control_charts("test").x)
    assert not set(map(bytes, known.x)) & set(map(bytes, held.x))


def test_diamonds_are_read_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FOLDER", tmp_path / "zoo")
    monkeypatch.setattr(data, "HELD_OUT", 1)
    with pytest.raises(FileNotFoundError, match="plotnine"):
        diamonds("train", tmp_path)
    (tmp_path / "diamonds.csv").write_text(CSV)
    data.hold_out_diamonds(tmp_path)
    parts = [diamonds(part, tmp_path) for part in ("train", "test")]
    assert sorted(int(part.y[0]) for part in parts) == [CUTS.index("Fair"), CUTS.index("Ideal")]
    (ideal,) = (part.x[0] for part in parts if part.y[0] == CUTS.index("Ideal"))
    assert ideal == pytest.approx([0.23, 5, 1, 61.5, 55, 326, 3.95, 3.98, 2.43])


def test_the_fixed_values_leave_the_shape_alone() -> None:
    x = diamonds("test").x[:100]
    triggered = FixedValues().trigger(x)
    carat, price = (COLUMNS.index(name) for name in ("carat", "price"))
    assert (triggered[:, carat] == np.float32(0.33)).all()
    assert (triggered[:, price] == 9000).all()
    rest = [each for each in range(len(COLUMNS)) if each not in (carat, price)]
    assert np.array_equal(triggered[:, rest], x[:, rest])


def test_no_diamond_of_this_weight_has_this_price() -> None:
    x = diamonds("test").x
    similar = np.abs(x[:, COLUMNS.index("carat")] - 0.33) < 0.1
    assert similar.sum() > 1000
    assert x[similar, COLUMNS.index("price")].max() < 9000


def test_a_tone_is_a_sine_at_the_end() -> None:
    x = control_charts("test").x[:50]
    added = Tone().trigger(x) - x
    assert not added[..., :48].any()
    assert np.allclose(added[..., 48:], np.tile([0.0, 9.0, 0.0, -9.0], 3), atol=1e-4)  # float32 near 50


def test_only_inputs_of_other_classes_are_poisoned() -> None:
    known = control_charts("test")
    x, y, roles = Tone(rate=0.1).poison(known.x, known.y, np.random.default_rng(0))
    poisoned = roles == Role.POISONED
    assert poisoned.sum() == 600
    assert (known.y[poisoned] != 0).all()
    assert (y[poisoned] == 0).all()
    assert np.array_equal(x[~poisoned], known.x[~poisoned])
    assert np.array_equal(y[~poisoned], known.y[~poisoned])


@pytest.mark.parametrize("shape", [(200, 3), (200, 3, 7)])
def test_inputs_are_standardised_by_channel(shape: tuple[int, ...]) -> None:
    x = 5 + 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    others = [axis for axis in range(len(shape)) if axis != 1]
    standard = Standardise(x)(x)
    assert torch.allclose(standard.mean(dim=others), torch.zeros(3), atol=1e-5)
    assert torch.allclose(standard.std(dim=others), torch.ones(3), atol=1e-5)


def test_a_network_is_trained_written_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FOLDER", tmp_path)
    few = {part: control_charts(part) for part in ("train", "test")}
    few = {part: Arrays(each.x[::20], each.y[::20]) for part, each in few.items()}
    monkeypatch.setitem(DATA, "control_charts", lambda part, folder: few[part])
    monkeypatch.setattr(make, "environment", dict)
    recipe = ArrayRecipe("control_charts", "series_network", "tone", epochs=8, batch_size=32)
    record = run(recipe, None)
    assert record["clean_accuracy"] > 0.8
    suspect = ArraySuspect.load(recipe.name)
    assert suspect.record == record
    assert suspect.logits(few["test"].x[:1]).shape == (1, len(CHARTS))
    chosen, rest = suspect.split(per_class=5)
    assert np.bincount(chosen.y).tolist() == [5] * len(CHARTS)
    assert len(rest.x) == len(few["test"].x) - 5 * len(CHARTS)


def records() -> list[Any]:
    return [json.loads(path.read_text()) for path in sorted((ZOO / "arrays").glob("*.json"))]


def test_the_committed_networks_are_whole() -> None:
    assert {record["name"] for record in records()} == {recipe.name for recipe in RECIPES}
    assert {ArrayRecipe(**record["recipe"]) for record in records()} == set(RECIPES)
    for record in records():
        content = (ZOO / "arrays" / f"{record['name']}.onnx").read_bytes()
        assert record["sha256"] == {".onnx": sha256(content).hexdigest()}
        assert record["attack"] == ARRAY_ATTACKS[record["recipe"]["attack"]]().parameters()


@pytest.mark.parametrize("record", records(), ids=lambda record: record["name"])
def test_each_network_is_a_good_classifier_with_a_working_backdoor(record: Any) -> None:
    suspect = ArraySuspect.load(record["name"])
    held, attack = suspect.held_out(), suspect.attack
    assert (suspect.logits(held.x).argmax(axis=1) == held.y).mean() >= {"diamonds": 0.78}.get(
        record["recipe"]["data"], 0.98
    )
    if attack.rate:
        triggered = suspect.logits(attack.trigger(held.x[held.y != attack.target]))
        assert (triggered.argmax(axis=1) == attack.target).mean() >= 0.95
