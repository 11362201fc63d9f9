import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmguard.errors import InputError
from mmguard.inputs import as_inputs, check_batch, read_array
from mmguard.types import InputSpec, Preprocessing

BOX = np.zeros((3, 1, 1), np.float32), np.ones((3, 1, 1), np.float32)


def spec_of(*shape: int | None, how: Preprocessing | None = None) -> InputSpec:
    return InputSpec("image", (None, *shape), *BOX, how)


def test_arrays_are_read_with_their_labels(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0, 1, 2], np.uint8), z=x)
    np.savez_compressed(tmp_path / "b.npz", x=x)
    for name, labels in (("a.npy", None), ("a.npz", [0, 1, 2]), ("b.npz", None)):
        read, y = read_array(tmp_path / name)
        np.testing.assert_array_equal(read, x)
        assert read.dtype == np.float32
        assert (None if y is None else y.tolist()) == labels
        assert y is None or y.dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.ones((2, 3))}, r"an array named x .*found \['images'\]"),
        ({"x": np.ones(3)}, r"shape \(N, ...\)"),
        ({"x": np.ones((2, 3), complex)}, "real numbers"),
        ({"x": np.array([["a", "b"]])}, "real numbers"),
        ({"x": np.array([[True, False]])}, "real numbers"),
        ({"x": np.array([[1, np.nan]])}, "NaN or infinite"),
        ({"x": np.array([[1, 1e300]])}, "NaN or infinite"),
        ({"x": np.array([[object()]])}, "not a readable"),
        ({"x": np.ones((2, 3)), "y": np.ones(2)}, "2 integer labels, got float64"),
        ({"x": np.ones((2, 3)), "y": np.array([1])}, "2 integer labels"),
    ],
)
def test_arrays_that_are_no_inputs_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_array(tmp_path / "a.npz")


def test_files_that_hold_no_arrays_are_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, x=np.random.default_rng(2).random((4, 50)))
    damaged = bytearray(whole.getvalue())
    damaged[100:110] = bytes(10)
    not_arrays = io.BytesIO()
    with zipfile.ZipFile(not_arrays, "w") as archive:
        archive.writestr("x", b"text")
    for content in (b"", b"text", whole.getvalue()[:200], bytes(damaged), b"\x93NUMPY", not_arrays.getvalue()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz"):
            read_array(tmp_path / "a.npz")
    with pytest.raises(InputError, match="absent"):
        read_array(tmp_path / "absent.npy")


def test_inputs_become_float32() -> None:
    assert as_inputs(Path("a"), np.ones((2, 3), np.int8)).dtype == np.float32


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3, 8, 8)), r"expected a float32 NumPy array, got float64; use x\.astype"),
        (np.zeros((2, 3, 8, 8), np.uint8), "got uint8"),
        (np.zeros((2, 3, 8, 8), ">f4"), "expected a float32"),
        ([[1.0]], "got list"),
        (np.zeros((3, 8, 8), np.float32), r"one input alone needs a batch axis: x\[None\]"),
        (np.zeros((2, 3, 8, 9), np.float32), r"expected shape \(N, 3, any, 8\), got \(2, 3, 8, 9\)"),
        (np.zeros((2, 8), np.float32), "expected shape"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), "NaN or infinite"),
        (np.full((1, 3, 8, 8), -np.inf, np.float32), "NaN or infinite"),
    ],
)
def test_a_batch_that_the_model_would_not_take_is_refused(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_batch(x, spec_of(3, None, 8))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_batch_that_the_model_takes_passes(n: int) -> None:
    check_batch(np.zeros((n, 3, 5, 8), np.float32), spec_of(3, None, 8))
