from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmguard.errors import InputError
from mmguard.inputs.checks import check_batch, check_form
from mmguard.inputs.reading import Inputs, as_inputs, is_array, match_columns, name_faults, read_array
from mmguard.inputs.spec import InputSpec, Preprocessing

BOX = np.zeros((3, 1, 1), np.float32), np.ones((3, 1, 1), np.float32)


def spec_of(*shape: int | None, how: Preprocessing | None = None, dtype: str = "float32") -> InputSpec:
    return InputSpec("image", (None, *shape), *BOX, how, dtype)


def test_arrays_are_read_with_their_labels(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0, 1, 2], np.uint8), z=x)
    np.savez_compressed(tmp_path / "b.npz", x=x)
    for name, labels in (("a.npy", None), ("a.npz", [0, 1, 2]), ("b.npz", None)):
        read = read_array(tmp_path / name)
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
    assert is_array(path)
    assert read_array(path).x.tolist() == [[1, 2]]
    assert not is_array(tmp_path / "a.png")


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
        ({"x": np.ones((2, 3)), "y": np.ones(2)}, "2 integer labels, .*got float64"),
        ({"x": np.ones((2, 3)), "y": np.array([1])}, "2 integer labels"),
        ({"x": np.ones((2, 3)), "y": np.zeros(2, "m8[s]")}, "2 integer labels"),
        ({"x": np.ones((2, 3)), "y": np.array([b"a", b"b"])}, "2 integer labels"),
    ],
)
def test_arrays_that_are_no_inputs_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_array(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["int8", ">f8", "longdouble", "uint64"])
def test_inputs_become_float32(dtype: str) -> None:
    x, faults = as_inputs(Path("a"), np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)))
    assert (x.dtype.name, x.tolist(), faults) == ("float32", [[0, 1, 2], [3, 4, 5]], {})
    assert x.dtype.isnative
    assert x.flags.c_contiguous


def test_a_row_that_cannot_be_an_input_is_a_fault_of_its_own() -> None:
    array = np.array([[1, 2], [1, np.nan], [3, 1e300], [-np.inf, 0], [4, 5]])
    x, faults = as_inputs(Path("a"), array)
    assert faults == dict.fromkeys([1, 2, 3], "has values that are NaN or infinite in float32")
    np.testing.assert_array_equal(x[[0, 4]], array[[0, 4]])
    assert as_inputs(Path("a"), array, "float64")[1].keys() == {1, 3}
    assert (
        name_faults(Path("a.npy"), {7: "is bad", 3: "is worse"}) == "a.npy: row 3 is worse; 1 more cannot be taken: 7"
    )
    assert name_faults(Path("a.npy"), dict.fromkeys(range(9), "is bad")).endswith(
        "8 more cannot be taken: 1, 2, 3, 4, 5 and 3 more"
    )


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
    read = read_array(tmp_path / "a.npy", "uint8")
    assert (read.x.dtype.name, read.faults) == ("uint8", {})
    np.testing.assert_array_equal(read.x, x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([[0.0, 255.0]]), "the model takes uint8, got float64; give the pixels as they are"),
        (np.array([[True, False]]), "real numbers"),
    ],
)
def test_what_uint8_cannot_hold_is_refused(tmp_path: Path, x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_inputs(tmp_path, x, "uint8")


def test_pixels_beyond_255_are_faults_of_their_rows(tmp_path: Path) -> None:
    x, faults = as_inputs(tmp_path, np.array([[0, 255], [-1, 3], [256, 0], [7, 8]]), "uint8")
    assert faults == dict.fromkeys([1, 2], "has values outside of 0 to 255, and the model takes uint8")
    assert x[[0, 3]].tolist() == [[0, 255], [7, 8]]


def test_what_float16_cannot_hold_is_a_fault() -> None:
    x, faults = as_inputs(Path("a"), np.array([[1, 65504], [1, 65520.0]]), "float16")
    assert (x.dtype.name, faults) == ("float16", {1: "has values that are NaN or infinite in float16"})


def test_the_form_of_a_batch_is_checked_apart_from_its_values() -> None:
    check_form(np.full((1, 3, 8, 8), np.nan, np.float32), spec_of(3, None, 8))
    with pytest.raises(InputError, match="expected shape"):
        check_form(np.zeros((2, 8), np.float32), spec_of(3, None, 8))


def test_an_array_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 1 TiB")

    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    monkeypatch.setattr("mmguard.inputs.reading.as_inputs", fail)
    with pytest.raises(InputError, match=r"a\.npy: it does not fit into memory \(Unable .*; give it in parts"):
        read_array(tmp_path / "a.npy")


def features(*columns: str) -> InputSpec:
    return InputSpec("x", (None, len(columns)), *BOX, columns=columns)


def test_columns_are_put_in_the_models_order_by_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    table = Inputs(np.array([[1.0, 2, 3]]), np.array([1]), ("age", "income", "debt"), {0: "fault"})
    moved = match_columns(Path("a.csv"), table, features("debt", "age", "income"))
    assert (moved.x.tolist(), moved.columns, moved.y, moved.faults) == (
        [[3, 1, 2]],
        ("debt", "age", "income"),
        table.y,
        table.faults,
    )
    assert "in another order" in caplog.text
    caplog.clear()
    assert match_columns(Path("a.csv"), table, features("age", "income", "debt")) is table
    assert not caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("age", "income"), "missing: debt; not known: none; it takes age, income, debt"),
        (("age", "income", "debt", "class"), "missing: none; not known: class;"),
        (("Age", "income", "debt"), r"missing: age; not known: Age \(Age may be age\);"),
        (("age", "in come", "debt"), r"missing: income; not known: in come \(in come may be income\);"),
        (tuple("stuvwxyz"), "missing: age, income, debt; not known: s, t, u, v, w and 3 more;"),
    ],
)
def test_columns_that_are_not_the_models_are_refused(columns: tuple[str, ...], message: str) -> None:
    table = Inputs(np.zeros((1, len(columns))), None, columns)
    with pytest.raises(InputError, match=rf"a\.csv: the columns are not those .*: {message}"):
        match_columns(Path("a.csv"), table, features("age", "income", "debt"))


def test_columns_without_names_to_match_are_taken_by_position_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    array = Inputs(np.zeros((1, 2)))
    assert match_columns(Path("a.npy"), array, features("age", "income")) is array
    assert not caplog.text
    table = Inputs(np.zeros((1, 2)), None, ("a", "b"))
    assert match_columns(Path("a.csv"), table, spec_of(2)) is table
    assert "not calibrated on a table, so the columns of a.csv are taken by position" in caplog.text


def test_rows_that_are_not_finite_are_named() -> None:
    x = np.zeros((12, 3, 5, 8), np.float32)
    x[[2, 7], 1, 1, 1] = np.nan, np.inf
    with pytest.raises(InputError, match=r"rows 2, 7 are NaN or infinite") as caught:
        check_batch(x, spec_of(3, None, 8))
    assert caught.value.rows == (2, 7)
