"""Inputs of a model, read from a file or from memory and then checked."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.text.format import first_few
from mmguard.types import IntArray

Array = npt.NDArray[Any]
Labels = IntArray | npt.NDArray[np.str_]


@dataclass(frozen=True)
class Inputs:
    """Inputs of a model, with their labels if there are any.

    Attributes:
        x: (N, ...) array of the model's dtype, in the model's layout.
        source: name of the data in messages: the path of a file, or "the calibration set" for data in memory.
        y: (N,) labels, int64 or strings; None if the data has no labels.
        columns: names of a table's features, in the order of the columns of `x`; None if the data is not a table.
        faults: the reason why each faulty row cannot be used as an input, by row number (counted from 0). In these
            rows, `x` and `y` contain arbitrary values.
    """

    x: Array
    source: str
    y: Labels | None = None
    columns: tuple[str, ...] | None = None
    faults: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, x: Array, y: Array | None, dtype: str, source: str) -> "Inputs":
        """Check arrays and convert them to the model's dtype.

        Args:
            x: (N, ...) real numbers of any dtype.
            y: (N,) integer labels or class names; None if there are no labels.
            dtype: name of the NumPy dtype that the model takes, such as `float32`.
            source: name of the data in messages, such as the path of a file.

        Returns:
            Inputs without column names. Rows that the model cannot take are listed in `faults`.

        Raises:
            InputError: `x` or `y` has an unexpected shape or an unexpected dtype, or does not fit into memory.
        """
        try:
            converted, faults = convert_inputs(x, dtype, source)
            return cls(converted, source, _convert_labels(y, len(x), source), None, faults)
        except MemoryError as error:
            raise InputError(out_of_memory(source, error)) from error

    def describe_faults(self) -> str:
        """Describe the faulty rows: the number and fault of the first faulty row, and the numbers of the others.

        Returns:
            A message that starts with `source`.

        Example:
            >>> Inputs(np.zeros((9, 2)), "a.npy", faults={3: "is bad", 7: "is bad"}).describe_faults()
            'a.npy: row 3 is bad; more unusable rows: 7'
        """
        first, *others = sorted(self.faults)
        more = f"; more unusable rows: {first_few(others)}" if others else ""
        return f"{self.source}: row {first} {self.faults[first]}{more}"


def convert_inputs(array: Array, dtype: str, source: str) -> tuple[Array, dict[int, str]]:
    """Convert an array to the model's dtype and find the rows that the model cannot take.

    Args:
        array: (N, ...) real numbers.
        dtype: name of the NumPy dtype that the model takes, such as `float32`.
        source: name of the data in messages, such as the path of a file.

    Returns:
        A C-contiguous copy (N, ...) of the array in the model's dtype, and a dict that maps the number of each faulty
            row to the reason. A row is faulty if some of its values are not finite in this dtype or, for uint8,
            are outside 0 to 255.

    Raises:
        InputError: `array` has no batch axis, does not contain real numbers, or contains floats although the
            model takes uint8.
    """
    if array.ndim < 2 or array.dtype.kind not in "iuf":
        raise InputError(f"{source}: expected real numbers of shape (N, ...), got {array.dtype} of shape {array.shape}")
    if dtype == "uint8":
        if array.dtype.kind == "f":
            raise InputError(
                f"{source}: the model takes uint8, got {array.dtype}; provide raw pixels: integers from 0 to 255, not "
                "scaled or normalised"
            )
        fits, fault = (array >= 0) & (array <= 255), "has values outside 0 to 255, but the model takes uint8"
        x = array.astype(dtype, order="C")
    else:
        with np.errstate(over="ignore"):
            x = array.astype(dtype, order="C")
        fits, fault = np.isfinite(x), f"has values that are NaN or infinite in {dtype}"
    bad = np.flatnonzero(~fits.all(axis=tuple(range(1, x.ndim))))
    return x, dict.fromkeys(bad.tolist(), fault)


def out_of_memory(source: str, error: MemoryError) -> str:
    """Return the error message for data that does not fit into memory.

    Args:
        source: name of the data in messages, such as the path of a file.
        error: the exception that NumPy or Python raised.

    Returns:
        The error message.
    """
    return f"{source} does not fit into memory ({error}); use fewer inputs at once"


def _convert_labels(y: Array | None, n: int, source: str) -> Labels | None:
    if y is None:
        return None
    if y.shape != (n,) or y.dtype.kind not in "iuU":
        raise InputError(
            f"{source}: expected y to be {n} integer labels or class names, one per row of x, got {y.dtype} of shape "
            f"{y.shape}"
        )
    return y.astype(np.str_) if y.dtype.kind == "U" else y.astype(np.int64)
