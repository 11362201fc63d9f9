"""The relative difference of two results, against numbers computed by hand."""

from typing import Any

import numpy as np
import pytest

from mmguard.runtime.difference import absolute_difference, comparable, relative_difference

NAN, INF = np.nan, np.inf


def floats(*values: float) -> Any:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("got", "expected", "absolute", "relative"),
    [
        (floats(1, 2), floats(1, 2), 0, 0),
        (floats(0.5, 0.25), floats(0.5, 0.5), 0.25, 0.25),  # over 1, not over 0.5
        (floats(10, 3), floats(-8, 4), 18, 18 / 8),
        (floats(10, INF), floats(8, INF), 2, 2 / 8),  # an infinite value is no scale
        (floats(INF), floats(-INF), INF, INF),
        (floats(INF), floats(1), INF, INF),
        (floats(1), floats(INF), INF, INF),
        (floats(), floats(), 0, 0),
        (np.array([2], np.float16), np.array([4], np.float16), 2, 0.5),
        (floats(1), np.array([1], np.float64), INF, INF),
        (floats(1, 1), floats(1), INF, INF),
        (np.array([1, 2]), np.array([1, 2]), 0, 0),
        (np.array([1, 2]), np.array([1, 3]), INF, INF),
        (np.array([True]), np.array([False]), INF, INF),
        (np.array(["cat"]), np.array(["cat"]), 0, 0),
        (np.array(["cat"]), np.array(["dog"]), INF, INF),
        ([{"a": 0.5, "b": 2.0}], [{"a": 0.5, "b": 4.0}], 2, 0.5),
        ([{"a": 0.5}], [{"b": 0.5}], INF, INF),
        ([{"a": 0.5}], [{"a": 0.5}, {"a": 0.5}], INF, INF),
        ([{"a": 0.5}], floats(0.5), INF, INF),
        (floats(0.5), [{"a": 0.5}], INF, INF),
    ],
)
def test_differences(got: Any, expected: Any, absolute: float, relative: float) -> None:
    for equal_nan in (False, True):
        assert absolute_difference(got, expected, equal_nan) == absolute
        assert relative_difference(got, expected, equal_nan) == relative


@pytest.mark.parametrize(("got", "expected"), [(NAN, 1), (1, NAN), (NAN, INF), (INF, NAN)])
def test_nan_against_a_number_is_within_no_tolerance(got: float, expected: float) -> None:
    for equal_nan in (False, True):
        assert not relative_difference(floats(got, 5), floats(expected, 5), equal_nan) <= 1e9


def test_nan_equals_nan_only_if_asked() -> None:
    got, expected = floats(NAN, 3), floats(NAN, 2)
    assert np.isnan(relative_difference(got, expected))
    assert relative_difference(got, expected, equal_nan=True) == 0.5


def test_maps_become_arrays_of_their_values() -> None:
    pair = comparable([{"a": 1.0, "b": 2.0}], [{"a": 3.0, "b": 4.0}])
    assert pair is not None
    np.testing.assert_array_equal(pair[0], [[1, 2]])
    np.testing.assert_array_equal(pair[1], [[3, 4]])
