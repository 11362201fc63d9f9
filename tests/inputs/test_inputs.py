"""Arrays become inputs of the model's dtype; a row that cannot is a fault."""

from typing import Any

import numpy as np
import pytest

from mmguard.errors import InputError
from mmguard.inputs.inputs import Inputs, convert_inputs


@pytest.mark.parametrize("dtype", ["int8", ">f8", "longdouble", "uint64"])
def test_inputs_become_float32(dtype: str) -> None:
    x, faults = convert_inputs(np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)), "float32", "a")
    assert (x.dtype.name, x.tolist(), faults) == ("float32", [[0, 1, 2], [3, 4, 5]], {})
    assert x.dtype.isnative
    assert x.flags.c_contiguous


def test_a_row_that_cannot_be_an_input_is_a_fault_of_its_own() -> None:
    array = np.array([[1, 2], [1, np.nan], [3, 1e300], [-np.inf, 0], [4, 5]])
    x, faults = convert_inputs(array, "float32", "a")
    assert faults == dict.fromkeys([1, 2, 3], "has values that are NaN or infinite in float32")
    np.testing.assert_array_equal(x[[0, 4]], array[[0, 4]])
    assert convert_inputs(array, "float64", "a")[1].keys() == {1, 3}


def test_faults_are_described_by_the_first_and_the_numbers_of_the_others() -> None:
    inputs = Inputs(np.zeros((9, 2)), "a.npy", faults={7: "is bad", 3: "is worse"})
    assert inputs.describe_faults() == "a.npy: row 3 is worse; more unusable rows: 7"
    assert Inputs(inputs.x, "a.npy", faults={3: "is bad"}).describe_faults() == "a.npy: row 3 is bad"
    many = Inputs(inputs.x, "a.npy", faults=dict.fromkeys(range(9), "is bad"))
    assert many.describe_faults() == "a.npy: row 0 is bad; more unusable rows: 1, 2, 3, 4, 5 and 3 more"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([[0.0, 255.0]]), "the model takes uint8, got float64; provide raw pixels: integers from 0 to 255"),
        (np.array([[True, False]]), "real numbers"),
    ],
)
def test_what_uint8_cannot_hold_is_refused(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert_inputs(x, "uint8", "a")


def test_pixels_beyond_255_are_faults_of_their_rows() -> None:
    x, faults = convert_inputs(np.array([[0, 255], [-1, 3], [256, 0], [7, 8]]), "uint8", "a")
    assert faults == dict.fromkeys([1, 2], "has values outside 0 to 255, but the model takes uint8")
    assert x[[0, 3]].tolist() == [[0, 255], [7, 8]]


def test_what_float16_cannot_hold_is_a_fault() -> None:
    x, faults = convert_inputs(np.array([[1, 65504], [1, 65520.0]]), "float16", "a")
    assert (x.dtype.name, faults) == ("float16", {1: "has values that are NaN or infinite in float16"})


def test_inputs_say_where_they_come_from() -> None:
    inputs = Inputs.of(np.array([[1, 2], [1e300, 3]]), np.array([0, 1], np.uint8), "float32", "the calibration set")
    assert (inputs.source, inputs.columns, sorted(inputs.faults)) == ("the calibration set", None, [1])
    assert inputs.y is not None
    assert inputs.y.dtype == np.int64
    with pytest.raises(
        InputError, match=r"^the calibration set: expected y to be 2 integer labels .*, got int64 of shape \(3,\)$"
    ):
        Inputs.of(np.zeros((2, 3)), np.zeros(3, np.int64), "float32", "the calibration set")
