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

from mmguard import Bundle, clipped_module
from mmguard.errors import CleanSetError, NotOnnxError, OptionError
from mmguard.pipeline.pytorch import as_files, export_module
from tests.quick import calibrate

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
    with as_files("model.onnx", clean) as (model, path), np.load(path) as arrays:
        assert model == Path("model.onnx")
        np.testing.assert_array_equal(arrays["x"], X)
        if "y" in arrays:
            np.testing.assert_array_equal(arrays["y"], labels())
    assert not path.exists()


def test_paths_stay_as_they_are(tmp_path: Path) -> None:
    with as_files("model.onnx", str(tmp_path)) as paths:
        assert paths == (Path("model.onnx"), tmp_path)


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        ([], "there are no clean inputs"),
        ([X[:2], (X[:2], labels()[:2])], "some batches .* have labels and others have none"),
        ([X[:2], X[:2, :, :4]], "do not fit together"),
        ([(X, labels(), X)], "got 3 parts"),
        ([["a", "b"]], "arrays or tensors of numbers, got str"),
    ],
)
def test_what_is_no_clean_set_is_refused(clean: Any, message: str) -> None:
    with pytest.raises(CleanSetError, match=message), as_files("model.onnx", clean):
        pass


def test_a_folder_does_not_say_what_a_module_takes(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="to export a module its inputs are needed"), as_files(module(), tmp_path):
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

    with pytest.raises(NotOnnxError, match="PyTorch cannot export this Branching; export it yourself"):
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
