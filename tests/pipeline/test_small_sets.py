"""Clean sets that are small or lack classes, and bounds that do harm or nothing: what works, and what is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from mmguard import Bundle
from mmguard.bundle.diagnostics import warn_of_blindness, warn_of_doubtful_labels
from mmguard.detection.rates import unseen_rate
from mmguard.errors import CleanSetError, OptionError
from mmguard.exporter.equality import run
from mmguard.settings import preset
from mmguard.settings.presets import DEFAULT
from tests.bundles import clean_inputs, tiny_network
from tests.networks import tiny_labels, write_clean, write_tiny
from tests.quick import QUICK, QUICK_MMOM, calibrate


@pytest.mark.parametrize(("n", "said"), [(30, "11.6 %"), (100, "3.6 %"), (199, "1.8 %"), (200, None)])
def test_what_few_inputs_can_tell_of_the_rate_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, n: int, said: str | None
) -> None:
    calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), write_clean(tmp_path / "few.npz", n=n), rounds=1)
    line = f"{n} clean inputs are too few to distinguish a false-positive rate of 0.5 % from a rate of {said} (at 95 %"
    assert (line in caplog.text) == (said is not None)
    assert ("too few to distinguish" in caplog.text) == (said is not None)


def test_a_level_that_the_inputs_can_tell_needs_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, few = write_tiny(tmp_path / "tiny.onnx"), write_clean(tmp_path / "few.npz", n=50)
    calibrate(tmp_path, model, few, theta=0.02, rounds=1)
    assert "too few to distinguish" not in caplog.text


def test_the_rate_of_what_was_not_seen_is_clopper_and_pearsons() -> None:
    from scipy.stats import binomtest

    for n in (1, 20, 500):
        interval = binomtest(0, n).proportion_ci(method="exact")
        assert unseen_rate(n) == pytest.approx(interval.high)


@pytest.mark.parametrize("folds", [1, 3])
def test_ten_a_class_make_a_guard(tmp_path: Path, folds: int) -> None:
    settings = replace(QUICK, folds=folds)
    x = clean_inputs(200)
    labels = tiny_labels(x)
    rows = np.concatenate([np.flatnonzero(labels == label)[:10] for label in range(3)])
    np.savez(tmp_path / "ten.npz", x=x[rows], y=labels[rows])
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), tmp_path / "ten.npz", settings=settings)
    null = Bundle.open(path).manifest.null
    assert null is not None
    assert null.n == 30


@pytest.mark.parametrize("labelled", [True, False])
def test_a_class_without_inputs_is_said_and_mmom_refuses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labelled: bool
) -> None:
    x = clean_inputs(200)
    x = x[tiny_labels(x) != 1]
    model, clean = write_tiny(tmp_path / "tiny.onnx"), tmp_path / "missing.npz"
    arrays = {"x": x, "y": tiny_labels(x)} if labelled else {"x": x}
    np.savez(clean, allow_pickle=False, **arrays)
    calibrate(tmp_path, model, clean)
    said = (
        "no input of class 1"
        if labelled
        else "no input that the model assigns to class 1 (check that inputs are preprocessed as the model expects)"
    )
    assert f"{said}; how clipping affects inputs of a missing class is unknown" in caplog.text
    refusal = "no input of class 1; MMOM unlearns classes" if labelled else "MMOM learns from labels"
    with pytest.raises(CleanSetError, match=refusal):
        calibrate(tmp_path, model, clean, settings=QUICK_MMOM)


@pytest.mark.parametrize("folds", [1, 2])
def test_a_thousand_classes_and_few_inputs_without_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, folds: int
) -> None:
    settings = replace(QUICK, folds=folds, first_steps=1, warm_steps=1, rounds=2)
    network, rng = tiny_network(), np.random.default_rng(0)
    weights = {"fc.weight": rng.normal(0, 1, (1000, 6)), "fc.bias": rng.normal(0, 0.1, 1000)}
    own = {name: array.astype(np.float32) for name, array in weights.items()}
    model = replace(network, weights={**network.weights, **own}).model()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1000
    onnx.save(model, tmp_path / "wide.onnx")
    path = calibrate(tmp_path, tmp_path / "wide.onnx", write_clean(tmp_path / "few.npz", n=40), settings=settings)
    assert len(Bundle.open(path).manifest.calibration.original_margins["sample"]) == 1000
    assert "no input that the model assigns to class " in caplog.text
    assert " more (check that inputs are preprocessed as the model expects)" in caplog.text


def test_a_margin_that_rises_is_not_said_to_be_lowered(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_blindness({"sample": np.array([1.0, 4.9])}, {"sample": np.array([6.1, 0.0])})
    assert "clipping does not lower the largest margin, which went from 4.9 to 6.1" in caplog.text
    assert "lowers the largest margin only" not in caplog.text


@pytest.mark.parametrize(
    ("labelled", "what"), [(True, "accuracy"), (False, "agreement with the original network's decisions")]
)
def test_lost_accuracy_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, labelled: bool, what: str) -> None:
    settings = replace(QUICK, rounds=10, budget=None, agreement=0.0, learning_rate=0.1)
    clean = write_clean(tmp_path / "clean.npz", labels=labelled)
    path = calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), clean, settings=settings, margin_weight=30.0)
    figures = Bundle.open(path).manifest.calibration
    assert figures.clipped_accuracy < 0.95
    accuracy = f"{100 * figures.clipped_accuracy:.1f} %"
    assert f"clipping lowers the {what} on the calibration set from 100 % to {accuracy}" in caplog.text
    assert "lower --margin-weight (now 30)" in caplog.text


def test_bounds_that_clip_nothing_are_not_blamed_on_the_clean_inputs(tmp_path: Path) -> None:
    settings = replace(QUICK, folds=1, bounds_start=1000.0)
    message = r"with a --margin-weight of 0, the bounds clip nothing .* use a higher weight"
    with pytest.raises(OptionError, match=message):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), settings=settings, margin_weight=0.0)


@pytest.mark.parametrize(("budget", "message"), [(0.0, "above 0 and at most 1"), (1.5, "above 0 and at most 1")])
def test_a_budget_that_is_none_is_refused(tmp_path: Path, budget: float, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), budget=budget)


def test_a_preset_that_steers_to_no_budget_refuses_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"do not adjust the penalty's weight to reach a budget; set margin_weight"):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), settings=preset("paper"), budget=0.1)


def test_a_larger_budget_gives_tighter_bounds(tmp_path: Path) -> None:
    settings = replace(DEFAULT, folds=1)
    model, changes = write_tiny(tmp_path / "tiny.onnx"), []
    for budget in (0.01, 0.2):
        path = calibrate(tmp_path, model, settings=settings, budget=budget)
        x = clean_inputs(120)
        original, clipped = (run(path / f"{form}.onnx", x, "logits") for form in ("original", "clipped"))
        changes.append(float(np.square(clipped - original).mean() / original.var(axis=0).mean()))
        assert Bundle.open(path).manifest.settings.budget == budget
    assert changes[0] < 0.05 < 0.1 < changes[1]


@pytest.mark.parametrize("accuracy", [0.2, 0.8])
def test_labels_that_the_model_mostly_misses_are_doubted(caplog: pytest.LogCaptureFixture, accuracy: float) -> None:
    warn_of_doubtful_labels(accuracy)
    assert ("the labels of only 20.0 % of the calibration set" in caplog.text) == (accuracy < 0.5)
