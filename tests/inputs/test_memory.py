"""A calibration set in memory, in every form in which users hold one, is the same inputs as from a file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mmguard.errors import CleanSetError, InputError
from mmguard.inputs.array_files import read_array
from mmguard.inputs.memory import gather, inputs_from_memory

X = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 4
DTYPES = ("float32", "float16", "float64", "uint8")


@pytest.mark.parametrize(
    ("data", "labelled"),
    [
        (X, False),
        (X.clone().requires_grad_(), False),
        (X.numpy(), False),
        ((X, LABELS), True),
        (DataLoader(TensorDataset(X, LABELS), batch_size=7), True),
        (DataLoader(TensorDataset(X), batch_size=16), False),
        (list(X.split(25)), False),
    ],
    ids=["tensor", "tensor with gradient", "array", "pair", "labelled loader", "loader", "list"],
)
def test_every_form_of_a_calibration_set_is_the_same_inputs(data: Any, labelled: bool) -> None:
    inputs = inputs_from_memory(data)
    np.testing.assert_array_equal(inputs.x, X)
    assert (inputs.source, inputs.columns, inputs.faults) == ("the calibration set", None, {})
    assert (None if inputs.y is None else inputs.y.tolist()) == (LABELS.tolist() if labelled else None)


def test_a_generator_is_read_once() -> None:
    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from zip(X.split(25), LABELS.split(25), strict=True)

    x, y = gather(batches())
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, LABELS)


def test_inputs_are_a_copy() -> None:
    x = X.numpy().copy()
    inputs = inputs_from_memory(x)
    x[:] = 0
    np.testing.assert_array_equal(inputs.x, X)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", ["float32", "float64", "float16", "int64", "uint8", ">f4", "bool"])
@pytest.mark.parametrize("labels", [None, np.arange(4), np.arange(4) / 2, np.arange(3), np.zeros((4, 1), np.int64)])
def test_data_in_memory_is_as_data_in_a_file(tmp_path: Path, dtype: str, given: str, labels: Any) -> None:
    values = np.array([[0, 1], [200, 3], [1e30, 4], [np.nan, 5]]) if "f" in given else np.array([[0, 1], [300, 2]] * 2)
    with np.errstate(all="ignore"):
        x = np.asfortranarray(values.astype(given))
    arrays = {"x": x} if labels is None else {"x": x, "y": labels}
    data = x if labels is None else (x, labels)
    np.savez(tmp_path / "a.npz", **arrays)
    try:
        read = read_array(tmp_path / "a.npz", dtype)
    except InputError as refusal:
        message = str(refusal).replace(str(tmp_path / "a.npz"), "the calibration set")
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            inputs_from_memory(data, dtype)
        return
    inputs = inputs_from_memory(data, dtype)
    np.testing.assert_array_equal(inputs.x, read.x)
    np.testing.assert_array_equal(inputs.y, read.y)
    assert (inputs.x.dtype, inputs.x.flags.c_contiguous, inputs.faults) == (read.x.dtype, True, read.faults)


def test_bfloat16_becomes_float32_first() -> None:
    x = X[:2].to(torch.bfloat16)
    np.testing.assert_array_equal(inputs_from_memory(x).x, x.float())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the calibration set is empty; provide about 50 inputs per class"),
        (X[:0], "the calibration set is empty"),
        ([X[:2], (X[:2], LABELS[:2])], "1 of 2 batches have labels; provide labels for all batches or for none"),
        (
            [X[:2], X[:2, :, :4]],
            "the batches cannot be concatenated: .*; provide inputs that all have the same shape",
        ),
        ([(X, LABELS, X)], r"expected x or \(x, y\), got 3 parts"),
        ([["a", "b"]], "expected arrays or tensors of numbers, got str"),
        (torch.tensor(1.0), "expected arrays or tensors of numbers, got Tensor"),
    ],
)
def test_what_is_no_calibration_set_is_refused(data: Any, message: str) -> None:
    with pytest.raises(CleanSetError, match=f"^the calibration set.*{message}|^{message}"):
        inputs_from_memory(data)


def test_data_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 1 TiB")

    monkeypatch.setattr("mmguard.inputs.inputs.convert_inputs", fail)
    with pytest.raises(InputError, match=r"the calibration set does not fit into memory \(Unable .*; use fewer inputs"):
        inputs_from_memory(X)
