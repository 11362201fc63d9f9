"""A batch is checked before a network runs it."""

from typing import Any

import numpy as np
import pytest

from mmguard.errors import InputError
from mmguard.inputs.batch_checks import check_batch, check_dtype_and_shape
from mmguard.inputs.spec import InputSpec

BOX = np.zeros((3, 1, 1), np.float32), np.ones((3, 1, 1), np.float32)


def spec_of(*shape: int | None, dtype: str = "float32") -> InputSpec:
    return InputSpec("image", (None, *shape), *BOX, dtype=dtype)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3, 8, 8)), r"expected a float32 NumPy array, got float64; use x\.astype"),
        (np.zeros((2, 3, 8, 8), np.uint8), "got uint8"),
        (np.zeros((2, 3, 8, 8), ">f4"), "expected a float32"),
        ([[1.0]], "got list"),
        (np.zeros((3, 8, 8), np.float32), r"add a batch axis to a single input: x\[None\]"),
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
    with pytest.raises(InputError, match="pass raw pixels from 0 to 255, not scaled or normalised"):
        check_batch(np.zeros((2, 3, 5, 8), np.float32), spec_of(3, None, 8, dtype="uint8"))


def test_the_form_of_a_batch_is_checked_apart_from_its_values() -> None:
    check_dtype_and_shape(np.full((1, 3, 8, 8), np.nan, np.float32), spec_of(3, None, 8))
    with pytest.raises(InputError, match="expected shape"):
        check_dtype_and_shape(np.zeros((2, 8), np.float32), spec_of(3, None, 8))


def test_rows_that_are_not_finite_are_named() -> None:
    x = np.zeros((12, 3, 5, 8), np.float32)
    x[[2, 7], 1, 1, 1] = np.nan, np.inf
    with pytest.raises(InputError, match=r"rows 2, 7 contain NaN or infinite values") as caught:
        check_batch(x, spec_of(3, None, 8))
    assert caught.value.rows == (2, 7)
