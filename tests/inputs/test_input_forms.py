"""The forms in which inputs come, from the command's options to the decisions of a scan."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from mmguard import Bundle, Guard
from mmguard.cli.app import DONE
from mmguard.cli.main import main
from mmguard.errors import InputError
from mmguard.guard.scan import scan
from mmguard.guard.verify import verify_bundle
from mmguard.inputs.image_files import read_image
from mmguard.inputs.preprocessing import PreprocessingOptions
from mmguard.inputs.spec import Preprocessing
from tests.bundles import CLASSES, Array, clean_inputs, tiny_network
from tests.networks import PLAIN, write_class_folders, write_text, write_tiny
from tests.quick import calibrate

HUGGING_FACE = {
    **{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 9}, "crop_size": 8, "resample": 3},
    **{"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]},
}


def write_images(folder: Path, n: int = 40) -> Path:
    """Images of several sizes and aspects."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        pixels = rng.integers(0, 256, (10 + i % 5, 8 + i % 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def write_channels_last(path: Path) -> Path:
    """The tiny network, with its input laid out NHWC."""
    model = tiny_network().model()
    for node in model.graph.node:
        node.input[:] = ["nchw" if name == "image" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 8, 8, 3]))
    onnx.save(model, path)
    return path


def test_a_command_reads_images_as_the_file_of_the_model_says(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HUGGING_FACE), encoding="utf-8")
    model, clean, out = write_tiny(tmp_path / "a.onnx"), write_images(tmp_path / "clean"), tmp_path / "a.mmguard"
    words = ["calibrate", model, clean, "--out", out, "--rounds", 1, "--interpolation", "hamming"]
    with pytest.raises(SystemExit) as exited:
        main([*map(str, words), "--preprocess", str(tmp_path / "preprocessor_config.json")])
    assert exited.value.code == DONE
    how = Bundle.open(out).manifest.input.preprocessing
    assert how == Preprocessing(
        *("RGB", None, 1 / 255, (0.0,) * 3, (1.0,) * 3, "NCHW", 9),
        **{"interpolation": "hamming", "crop": (8, 8), "crop_rounding": "floor"},  # type: ignore[arg-type]
    )
    with Guard(out, registry=None) as guard:
        rows = list(scan(guard, clean))
        x: Array = np.stack([read_image(clean / row["input"], how) for row in rows])
        decision = guard(x)
    assert [row["p_value"] for row in rows] == decision.p_values.tolist()
    assert x.shape == (40, 3, 8, 8)


def test_a_model_that_takes_nhwc_decides_as_its_twin(tmp_path: Path) -> None:
    """Images, and arrays whose box is their range: the layout is found out, and the bounds are the same."""
    clean, bounds = write_class_folders(tmp_path / "clean", CLASSES), []
    for name, write in (("first", write_tiny), ("last", write_channels_last)):
        (tmp_path / name).mkdir()
        model = write(tmp_path / name / "tiny.onnx")
        bundle = Bundle.open(
            calibrate(tmp_path / name, model, clean, preprocessing=PreprocessingOptions(scale=1 / 255).preprocessing())
        )
        bounds.append(bundle.bounds())
        how = bundle.manifest.input.preprocessing
        assert how is not None
        assert how.layout == ("NCHW" if name == "first" else "NHWC")
        with Guard(bundle, registry=None) as guard:
            assert sum(row["flagged"] for row in scan(guard, clean)) < 20
    assert bounds[0].keys() == bounds[1].keys()
    for value, bound in bounds[0].items():
        assert bound.shape == bounds[1][value].shape


def write_typed(path: Path, dtype: str, batch: int | None) -> Path:
    """The tiny network, which takes pixels of 0 to 255 of a dtype, and scales them itself."""
    model = tiny_network().model()
    for node in model.graph.node:
        node.input[:] = ["scaled" if name == "image" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"))
    model.graph.node.insert(0, helper.make_node("Mul", ["pixels", "scale"], ["scaled"]))
    model.graph.node.insert(0, helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, [batch or "N", 3, 8, 8]))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("dtype", "batch"), [("uint8", None), ("uint8", 4), ("float16", None), ("float64", None)])
def test_a_model_of_another_dtype_is_guarded_on_images(tmp_path: Path, dtype: str, batch: int | None) -> None:
    model, clean = write_typed(tmp_path / "a.onnx", dtype, batch), write_class_folders(tmp_path / "clean", CLASSES)
    how = None if dtype == "uint8" else Preprocessing(scale=1)
    bundle = Bundle.open(calibrate(tmp_path, model, clean, preprocessing=how))
    spec = bundle.manifest.input
    assert (spec.dtype, spec.preprocessing) == (dtype, Preprocessing(scale=1))
    assert (spec.low.ravel().tolist(), spec.high.ravel().tolist()) == ([0] * 3, [255] * 3)
    with Guard(bundle, registry=None) as guard:
        rows = list(scan(guard, clean))
        x = np.stack([read_image(clean / row["input"], Preprocessing(scale=1), dtype) for row in rows])
        np.save(tmp_path / "x.npy", x.astype(np.uint8))
        assert guard(x).p_values.tolist() == pytest.approx([row["p_value"] for row in rows], abs=1e-4)
        assert len(list(scan(guard, tmp_path / "x.npy"))) == len(x)
        with pytest.raises(InputError, match=f"expected a {dtype} NumPy array, got float32"):
            guard(x.astype(np.float32))
    assert verify_bundle(bundle) < 1e-4


def test_arrays_for_a_model_that_takes_uint8_are_pixels(tmp_path: Path) -> None:
    model, x = write_typed(tmp_path / "a.onnx", "uint8", None), np.round(255 * clean_inputs(60))
    np.savez(tmp_path / "scaled.npz", x=x / 255)
    with pytest.raises(InputError, match="the model takes uint8, got float32"):
        calibrate(tmp_path, model, tmp_path / "scaled.npz")
    np.savez(tmp_path / "pixels.npz", x=x.astype(np.int64))
    spec = Bundle.open(calibrate(tmp_path, model, tmp_path / "pixels.npz")).manifest.input
    assert (spec.low.min(), spec.high.max(), spec.preprocessing) == (0, 255, None)


def test_a_table_calibrates_a_guard_and_is_scanned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = write_text(tmp_path, PLAIN)
    x = np.abs(np.random.default_rng(0).normal(size=(60, 4)))
    x[:, 2] = 0.25
    table = tmp_path / "clean.csv"
    np.savetxt(table, x, delimiter=",", header="age,income,constant,debt", comments="")
    bundle = Bundle.open(calibrate(tmp_path, model, table))
    box = bundle.manifest.input
    np.testing.assert_allclose(box.low, x.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(box.high, x.max(axis=0), rtol=1e-6)
    assert box.low[2] == box.high[2]
    assert "constant in the calibration set, and thus in the margin search: 1" in caplog.text
    assert all(np.isfinite(bound).all() for bound in bundle.bounds().values())
    assert np.isfinite(list(bundle.manifest.calibration.original_margins.values())).all()
    assert box.columns == ("age", "income", "constant", "debt")
    with Guard(bundle, registry=None) as guard:
        assert len(list(scan(guard, table))) == 60


def test_a_table_is_judged_by_its_columns_names_whatever_their_order(tmp_path: Path) -> None:
    names, x = ["age", "income", "years", "debt"], np.abs(np.random.default_rng(0).normal(size=(60, 4)))
    table = tmp_path / "clean.csv"
    np.savetxt(table, x, delimiter=",", header=",".join(names), comments="")
    order, moved = [3, 1, 0, 2], tmp_path / "moved.CSV"
    header = " , ".join(names[i] for i in order)
    np.savetxt(moved, x[:, order], delimiter=",", header=f"{header},Label", comments="", footer="", newline=",0\n")
    moved.write_text(moved.read_text().replace("Label,0", "Label", 1), encoding="utf-8")
    with Guard(calibrate(tmp_path, write_text(tmp_path, PLAIN), table), registry=None) as guard:
        assert list(scan(guard, moved)) == list(scan(guard, table))
        moved.write_text(moved.read_text().replace("age", "Age"), encoding="utf-8")
        with pytest.raises(InputError, match=r"missing: age; unknown: Age \(did you mean age instead of Age\?\)"):
            list(scan(guard, moved))
        np.save(tmp_path / "x.npy", x)
        by_place = [row["label"] for row in scan(guard, tmp_path / "x.npy")]
        assert by_place == [row["label"] for row in scan(guard, table)]
    assert len(set(by_place)) > 1
