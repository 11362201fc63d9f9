"""Inputs and labels from `.npy`, `.npz` and `.csv` files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmguard.errors import InputError
from mmguard.inputs.array_files import is_array_file, read_array


def test_arrays_are_read_with_their_labels(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0, 1, 2], np.uint8), z=x)
    np.savez_compressed(tmp_path / "b.npz", x=x)
    for name, labels in (("a.npy", None), ("a.npz", [0, 1, 2]), ("b.npz", None)):
        read = read_array(tmp_path / name)
        assert read.source == str(tmp_path / name)
        np.testing.assert_array_equal(read.x, x)
        assert (read.x.dtype.name, read.columns, read.faults) == ("float32", None, {})
        assert (None if read.y is None else read.y.tolist()) == labels
        assert read.y is None or read.y.dtype == np.int64


@pytest.mark.parametrize("suffix", ["npy", "NPY", "Npz", "NPZ", "csv", "CSV"])
def test_a_suffix_says_what_is_an_array_in_letters_of_any_case(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with path.open("wb") as file:
        match suffix.lower():
            case "npy":
                np.save(file, [[1, 2]])
            case "npz":
                np.savez(file, x=[[1, 2]])
            case _:
                file.write(b"a,b\n1,2\n")
    assert is_array_file(path)
    assert read_array(path).x.tolist() == [[1, 2]]
    assert not is_array_file(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.ones((2, 3))}, r"an array named x .*found \['images'\]"),
        ({"x": np.ones(3)}, r"shape \(N, ...\)"),
        ({"x": np.ones((2, 3), complex)}, "real numbers"),
        ({"x": np.array([["a", "b"]])}, "real numbers"),
        ({"x": np.array([[True, False]])}, "real numbers"),
        ({"x": np.zeros((2, 3), "m8[s]")}, "real numbers.*got timedelta64"),
        ({"x": np.zeros((2, 3), "M8[s]")}, "real numbers.*got datetime64"),
        ({"x": np.zeros((2, 3), "V4")}, "real numbers"),
        ({"x": np.zeros(2, [("a", "f4"), ("b", "f4")])}, "real numbers"),
        ({"x": np.array([[object()]])}, "Python objects"),
        ({"x": np.ones((2, 3)), "y": np.ones(2)}, "2 integer labels or class names, .*got float64"),
        ({"x": np.ones((2, 3)), "y": np.array([1])}, "2 integer labels"),
        ({"x": np.ones((2, 3)), "y": np.zeros(2, "m8[s]")}, "2 integer labels"),
        ({"x": np.ones((2, 3)), "y": np.array([b"a", b"b"])}, "2 integer labels"),
    ],
)
def test_arrays_that_are_no_inputs_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_array(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint16", ">i4"])
def test_whole_numbers_of_0_to_255_are_uint8(tmp_path: Path, dtype: str) -> None:
    x = np.array([[0, 255], [7, 128]], dtype)
    np.save(tmp_path / "a.npy", x)
    read = read_array(tmp_path / "a.npy", "uint8")
    assert (read.x.dtype.name, read.faults) == ("uint8", {})
    np.testing.assert_array_equal(read.x, x)


def test_an_array_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 1 TiB")

    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    monkeypatch.setattr("mmguard.inputs.inputs.convert_inputs", fail)
    with pytest.raises(InputError, match=r"a\.npy does not fit into memory \(Unable .*; use fewer inputs"):
        read_array(tmp_path / "a.npy")
