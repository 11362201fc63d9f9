import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmguard.errors import InputError
from mmguard.inputs import as_inputs, check_batch, empty_batch, read_array
from mmguard.types import InputSpec, Preprocessing

BOX = np.zeros((3, 1, 1), np.float32), np.ones((3, 1, 1), np.float32)


def spec_of(*shape: int | None, how: Preprocessing | None = None, dtype: str = "float32") -> InputSpec:
    return InputSpec("image", (None, *shape), *BOX, how, dtype)


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
        ({"x": np.ones((2, 3)), "y": np.ones(2)}, "2 integer labels, .*got float64"),
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


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8"])
def test_a_batch_is_of_the_models_own_dtype(dtype: str) -> None:
    spec = spec_of(3, None, 8, dtype=dtype)
    check_batch(np.zeros((2, 3, 5, 8), dtype), spec)
    assert empty_batch(spec).dtype == np.dtype(dtype)
    check_batch(empty_batch(spec), spec)
    other = "float16" if dtype == "float32" else "float32"
    with pytest.raises(InputError, match=f"expected a {dtype} NumPy array, got {other}; "):
        check_batch(np.zeros((2, 3, 5, 8), other), spec)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_batch_may_be_of_any_size_where_the_models_is_fixed(n: int) -> None:
    spec = InputSpec("image", (4, 3, 8, 8), *BOX)
    check_batch(np.zeros((n, 3, 8, 8), np.float32), spec)
    with pytest.raises(InputError, match=r"expected shape \(N, 3, 8, 8\), got \(4, 3, 8, 9\)"):
        check_batch(np.zeros((4, 3, 8, 9), np.float32), spec)


def test_what_is_given_to_a_model_that_takes_uint8_must_be_pixels() -> None:
    with pytest.raises(InputError, match="the pixels as they are, 0 to 255, neither scaled nor normalised"):
        check_batch(np.zeros((2, 3, 5, 8), np.float32), spec_of(3, None, 8, dtype="uint8"))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint16", ">i4"])
def test_whole_numbers_of_0_to_255_are_uint8(tmp_path: Path, dtype: str) -> None:
    x = np.array([[0, 255], [7, 128]], dtype)
    np.save(tmp_path / "a.npy", x)
    read, _ = read_array(tmp_path / "a.npy", "uint8")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([[0.0, 255.0]]), "the model takes uint8, got float64; give the pixels as they are"),
        (np.array([[-1, 3]]), "0 to 255, got -1 to 3"),
        (np.array([[0, 256]]), "0 to 255, got 0 to 256"),
        (np.array([[True, False]]), "real numbers"),
    ],
)
def test_what_uint8_cannot_hold_is_refused(tmp_path: Path, x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_inputs(tmp_path, x, "uint8")


def test_what_float16_cannot_hold_is_refused() -> None:
    assert as_inputs(Path("a"), np.array([[1, 65504]]), "float16").dtype == np.float16
    with pytest.raises(InputError, match="NaN or infinite in float16"):
        as_inputs(Path("a"), np.array([[1, 65520.0]]), "float16")


def test_a_table_gives_its_features_and_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffage,income,Label\n31,1.5e3,1\n\n64,-2,0\n", encoding="utf-8")
    x, y = read_array(path)
    np.testing.assert_array_equal(x, [[31, 1500], [64, -2]])
    assert (x.dtype.name, y is not None and y.tolist()) == ("float32", [1, 0])
    path.write_text('"age","label of origin"\n"31",2.5\n', encoding="utf-8")
    x, y = read_array(path)
    assert (x.tolist(), y) == ([[31, 2.5]], None)
    path.write_text("age,label\n31, cat\n64,dog \n5,7\n", encoding="utf-8")
    x, y = read_array(path)
    assert (x.tolist(), y is not None and y.tolist()) == ([[31], [64], [5]], ["cat", "dog", "7"])
    path.write_text("age,income\n", encoding="utf-8")
    assert read_array(path)[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,4\n", "the first row must name the columns, it has numbers: 1, 2"),
        ("a,b\n1\n", "line 2 has 1 columns, the first row names 2"),
        ("a,b\n1,2\n\n3\n", "line 4 has 1 columns"),
        ("a,b\n1,x\n", "line 2, column 'b': 'x' is no number"),
        ("a,b\n1,nan\n", "NaN or infinite"),
        ("a,label\n1,0.5\n", "1 integer labels"),
        ("a,label\n1,nan\n", "1 integer labels"),
        ("", "not a readable .csv"),
        ("a\x00,b\n1,2\x00\n", "not a readable .csv|is no number"),
    ],
)
def test_a_table_that_is_no_inputs_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_array(tmp_path / "a.csv")


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match=r"not a readable \.csv"):
        read_array(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"absent\.csv"):
        read_array(tmp_path / "absent.csv")


def test_rows_that_are_not_finite_are_named() -> None:
    x = np.zeros((12, 3, 5, 8), np.float32)
    x[[2, 7], 1, 1, 1] = np.nan, np.inf
    with pytest.raises(InputError, match=r"rows 2, 7 are NaN or infinite") as caught:
        check_batch(x, spec_of(3, None, 8))
    assert caught.value.rows == (2, 7)
