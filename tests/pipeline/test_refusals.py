"""What calibration refuses, as early as it can, and that it then leaves everything as it was."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from mmguard import Bundle, calibrate_model
from mmguard.errors import (
    BundleError,
    CleanSetError,
    InputError,
    MissingExtraError,
    ModelError,
    NotClassifierError,
    OptionError,
    ProviderError,
)
from mmguard.inputs.spec import Preprocessing
from mmguard.settings.settings import Settings
from tests.bundles import clean_inputs, tiny_network
from tests.networks import HEADER, PLAIN, declare, write_clean, write_tiny
from tests.quick import calibrate, files


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_bundle_is_not_written_over(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "precious"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work", encoding="utf-8")
    else:
        out.write_text("years of work", encoding="utf-8")
    model = write_tiny(tmp_path / "tiny.onnx")
    rounds: list[object] = []
    before = files(tmp_path)
    with pytest.raises(BundleError, match="precious exists and is not a guard bundle"):
        calibrate(tmp_path, model, tmp_path, out=out, on_round=rounds.append)
    assert files(tmp_path) == before
    assert not rounds, "refused before anything is computed"


@pytest.mark.parametrize("stem", ["模型", "_hidden", "x" * 129])
def test_a_file_name_that_makes_no_name_asks_for_one(tmp_path: Path, stem: str) -> None:
    model = write_tiny(tmp_path / f"{stem}.onnx")
    with pytest.raises(OptionError, match="pass a --name of up to 128 characters"):
        calibrate(tmp_path, model)
    assert Bundle.open(calibrate(tmp_path, model, name="net")).manifest.name == "net"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rounds": 0}, OptionError, "rounds must be a whole number of at least 1, got 0"),
        ({"theta": 0.0}, OptionError, "theta must be a number above 0 and at most 1, got 0.0"),
        ({"theta": float("nan")}, OptionError, "theta must be a number above 0"),
        ({"seed": -1}, OptionError, "seed must be from 0"),
        ({"seed": 2**64}, OptionError, "seed must be from 0"),
        ({"device": "tpu"}, OptionError, "device must be cpu or cuda, got 'tpu'"),
        ({"classes": ["a", "b"]}, CleanSetError, "one per output of the model, got 2"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), **options)
    assert not (tmp_path / "out.mmguard").exists()


def test_cuda_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ProviderError, match="finds no CUDA GPU"):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), device="cuda")


def test_too_few_clean_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CleanSetError, match=r"at least 20 clean inputs, got 19"):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), write_clean(tmp_path / "few.npz", n=19))


def test_wrong_labels_are_refused_before_anything_is_learned(tmp_path: Path) -> None:
    clean = write_clean(tmp_path / "clean.npz", labels=True)
    arrays = dict(np.load(clean))
    np.savez(clean, x=arrays["x"], y=(arrays["y"] + 1) % 3)
    rounds: list[object] = []
    with pytest.raises(CleanSetError, match="far below chance"):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), clean, on_round=rounds.append)
    assert not rounds


def write_reshaped(path: Path, *shape: int) -> Path:
    """The tiny network with its logits reshaped by constants, as exporters do when they trace one batch."""
    model = declare(tiny_network().model(), "reshaped", "N", 3)
    model.graph.node.append(helper.make_node("Reshape", ["logits", "shape"], ["reshaped"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "shape"))
    onnx.save(model, path)
    return path


def test_a_batch_that_is_baked_into_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot run the model on inputs of shape \(32, .*dynamic batch axis"):
        calibrate(tmp_path, write_reshaped(tmp_path / "baked.onnx", 1, 3))


def test_scores_of_another_number_of_rows_are_refused(tmp_path: Path) -> None:
    model = write_reshaped(tmp_path / "split.onnx", -1, 6)
    with pytest.raises(NotClassifierError, match=r"one row per input .* it has shape \(1, 6\) for 2"):
        calibrate(tmp_path, model)


NUMBERS = (0.1, 0.2, 0.3)


@pytest.mark.parametrize("preprocessing", [Preprocessing(mean=NUMBERS), Preprocessing(std=NUMBERS)])
def test_three_numbers_for_one_channel_are_refused(tmp_path: Path, preprocessing: Preprocessing) -> None:
    images = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 1, 8, 8])
    model = tiny_network().model()
    model.graph.input[0].CopyFrom(images)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 1, 3, 3), np.float32), "conv1.weight"))
    onnx.save(model, tmp_path / "grey.onnx")
    with pytest.raises(OptionError, match=r"expected one number each for --mean and --std, .* got 3"):
        calibrate(tmp_path, tmp_path / "grey.onnx", preprocessing=preprocessing)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(
        MissingExtraError,
        match=r"calibration needs onnx_ir: in your clone of mmguard, run pip install '.\[calibrate\]'",
    ):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))


def test_an_unknown_preset_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"preset must be one of default, .*got 'best'"):
        calibrate_model(write_tiny(tmp_path / "tiny.onnx"), clean_inputs(120), settings="best")


def test_arrays_outside_the_box_of_the_preprocessing_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "raw.npz", x=255 * clean_inputs(40))
    with pytest.raises(InputError, match=r"box that follows from the preprocessing, 0 to 1; check --mean"):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), tmp_path / "raw.npz", preprocessing=Preprocessing())


def test_a_guard_that_would_catch_little_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, blind = write_tiny(tmp_path / "tiny.onnx"), Settings(rounds=1, first_steps=1, maximisers=4, bounds_start=3.0)
    calibrate_model(model, write_clean(tmp_path / "clean.npz"), out=tmp_path / "out.mmguard", settings=blind)
    assert "this guard may detect few triggered inputs" in caplog.text


DOUBTFUL = {
    "depend slightly on the other inputs in the batch": (
        "q, s, z = DynamicQuantizeLinear(hidden) i = MatMulInteger(q, eight, z) f = Cast<to = 1>(i) logits = Mul(f, s)"
    ),
    "looks like probabilities": (
        "raw = MatMul(hidden, w) e = Exp(raw) a = Constant<value_ints = [1]>() t = ReduceSum(e, a) logits = Div(e, t)"
    ),
}


@pytest.mark.parametrize(("said", "body"), DOUBTFUL.items())
def test_a_model_whose_answers_are_doubtful_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: str, body: str
) -> None:
    text = (HEADER + PLAIN).replace("logits = MatMul(hidden, w)", body)
    eight = "<uint8[4,3] eight = {1, 9, 2, 5, 3, 7, 8, 2, 6, 4, 1, 3}, float[4,3] w"
    onnx.save(onnx.parser.parse_model(text.replace("<float[4,3] w", eight)), tmp_path / "model.onnx")
    np.save(tmp_path / "clean.npy", np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32))
    calibrate(tmp_path, tmp_path / "model.onnx", tmp_path / "clean.npy")
    assert said in caplog.text


def test_an_input_of_which_the_model_makes_no_number_is_refused_at_once(tmp_path: Path) -> None:
    model = tiny_network().model()
    model.graph.node.insert(0, helper.make_node("Sqrt", ["image"], ["root"]))
    model.graph.node[1].input[0] = "root"
    onnx.save(model, tmp_path / "root.onnx")
    x, rounds = clean_inputs(120), list[object]()
    x[50, 0, 0, 0] = -1
    np.savez(tmp_path / "clean.npz", x=x)
    message = "NaN or infinite for 1 of the 120 clean inputs, the first at index 50"
    with pytest.raises(NotClassifierError, match=message):
        calibrate(tmp_path, tmp_path / "root.onnx", tmp_path / "clean.npz", on_round=rounds.append)
    assert not rounds


@pytest.mark.parametrize("settings", [None, 3, {"theta": 0.1}, Path("default")])
def test_settings_of_another_type_are_refused_before_anything_is_read(tmp_path: Path, settings: Any) -> None:
    model = write_tiny(tmp_path / "tiny.onnx")
    with pytest.raises(
        OptionError, match=r"settings must be the name of a preset or an mmguard\.Settings object, got \w+"
    ):
        calibrate_model(model, clean_inputs(120), settings=settings)


def test_callbacks_may_be_none(tmp_path: Path) -> None:
    calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), on_round=None, on_progress=None)
