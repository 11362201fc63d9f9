"""PyTorch users: a module and a loader go in, a clipped module comes out."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmguard import Bundle, calibrate_model, clipped_module
from mmguard.errors import CleanSetError, NotOnnxError, OptionError
from mmguard.pipeline.clean_source import CleanSource
from mmguard.pipeline.pytorch import export_module, model_file
from tests.networks import write_tiny
from tests.quick import QUICK, calibrate

X = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def module() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(216, 4)
    )
    with torch.no_grad():
        for _ in range(20):
            layers(X)
        layers[-1].weight.mul_(4)  # type: ignore[operator]
    return layers


def labels() -> torch.Tensor:
    with torch.no_grad():
        return module().eval()(X).argmax(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "clean",
    [
        X,
        X.numpy(),
        (X, labels()),
        DataLoader(TensorDataset(X, labels()), batch_size=7),
        DataLoader(TensorDataset(X), batch_size=16),
        list(X.split(25)),
    ],
    ids=["tensor", "array", "pair", "labelled loader", "loader", "list"],
)
def test_every_form_of_clean_inputs_is_the_same_set(clean: Any) -> None:
    inputs = CleanSource(clean).inputs("float32")
    np.testing.assert_array_equal(inputs.x, X)
    if inputs.y is not None:
        np.testing.assert_array_equal(inputs.y, labels())
    assert CleanSource(clean).folder is None


def test_a_file_of_arrays_is_read_once(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    source = CleanSource(tmp_path / "x.npy")
    first = source.inputs("float32")
    (tmp_path / "x.npy").unlink()
    assert source.inputs("float32") is first


def test_a_model_file_stays_where_it_is(tmp_path: Path) -> None:
    with model_file(Path("model.onnx"), CleanSource(tmp_path)) as path:
        assert path == Path("model.onnx")


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        ([], "the calibration set is empty"),
        ([X[:2], (X[:2], labels()[:2])], "1 of 2 batches have labels"),
        ([X[:2], X[:2, :, :4]], "batches cannot be concatenated"),
        ([(X, labels(), X)], "got 3 parts"),
        ([["a", "b"]], "arrays or tensors of numbers, got str"),
    ],
)
def test_what_is_no_clean_set_is_refused(clean: Any, message: str) -> None:
    with pytest.raises(CleanSetError, match=message):
        CleanSource(clean)


def test_a_folder_does_not_say_what_a_module_takes(tmp_path: Path) -> None:
    source = CleanSource(tmp_path)
    with pytest.raises(OptionError, match="requires example inputs"), model_file(module(), source):
        pass


def test_an_exported_module_is_the_module_in_evaluation_mode(tmp_path: Path) -> None:
    trained = module().train()
    path = export_module(trained, X.numpy(), tmp_path / "m.onnx")
    assert trained.training
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 5):
        (found,) = session.run(None, {"input": X[:n].numpy()})
        np.testing.assert_allclose(found, trained.eval()(X[:n]).detach(), rtol=1e-4, atol=1e-5)


def test_a_module_that_cannot_be_exported_is_refused_by_name(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum() > 0 else x.flatten(1) * 2

    with pytest.raises(NotOnnxError, match="PyTorch cannot export this Branching; export it to ONNX yourself"):
        export_module(Branching(), X.numpy(), tmp_path / "m.onnx")


def test_a_module_is_calibrated_and_comes_back_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    original = module()
    path = calibrate(tmp_path, original, DataLoader(TensorDataset(X, labels()), batch_size=20))  # type: ignore[arg-type]
    manifest = Bundle.open(path).manifest
    assert (manifest.name, manifest.calibration.n, manifest.calibration.labelled) == ("Sequential", 60, True)
    clipped = clipped_module(path)
    session = ort.InferenceSession(path / "clipped.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input": X.numpy()})[0]
    np.testing.assert_allclose(clipped(X).detach(), expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(expected, original.eval()(X).detach())
    x = X[:4].clone().requires_grad_()
    clipped(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert list(clipped.parameters()) == []


def test_a_calibration_set_in_memory_is_never_written_or_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the calibration set went through a file")

    for name in ("save", "savez", "savez_compressed", "load"):
        monkeypatch.setattr(np, name, refuse)
    batches = (batch for batch in X.split(25))  # can be read once only
    path = calibrate_model(write_tiny(tmp_path / "tiny.onnx"), batches, settings=QUICK, out=tmp_path / "out.mmguard")
    assert Bundle.open(path).manifest.calibration.n == len(X)
