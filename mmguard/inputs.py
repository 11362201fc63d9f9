"""Arrays as inputs of a model: reading them, and the check at the guard's door."""

import csv
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.types import BoolArray, InputSpec, IntArray

ARRAY_SUFFIXES = frozenset({".csv", ".npy", ".npz"})
"""Files that `read_array` reads."""

SHOWN_ROWS = 8
"""Rows that an error names; there may be thousands."""

LABEL = "label"
"""Name of a table's last column where that holds labels."""


def shape_fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape is the expected one; None there is an axis of any length."""
    return len(shape) == len(expected) and all(w in (None, got) for w, got in zip(expected, shape, strict=True))


def empty_batch(spec: InputSpec) -> npt.NDArray[Any]:
    """A batch of no inputs: (0, ...) of the model's dtype, dynamic axes of length 1."""
    return np.zeros((0, *(size or 1 for size in spec.shape[1:])), dtype=spec.dtype)


def read_array(path: Path, dtype: str = "float32") -> tuple[npt.NDArray[Any], IntArray | npt.NDArray[np.str_] | None]:
    """Read inputs from an `.npy` (inputs), an `.npz` (`x`, and optionally labels `y`) or a `.csv`.

    A `.csv` is UTF-8, comma-separated numbers. Its first row names the columns; a last column `label` holds labels,
    which may be words.

    Args:
        dtype: NumPy's name of the dtype that the model takes.

    Returns:
        Inputs (N, ...) of that dtype in the model's own layout, and labels (N,), int64 or strings, or None.

    Raises:
        InputError: not such a file, no `x`, an object array, labels that do not match, or values that the dtype cannot
            hold.
    """
    arrays = _load_table(path) if path.suffix == ".csv" else _load_arrays(path)
    if "x" not in arrays:
        raise InputError(f"{path}: expected an array named x (and optionally y), found {sorted(arrays)}")
    x, y = as_inputs(path, arrays["x"], dtype), arrays.get("y")
    if y is None:
        return x, None
    words = y.dtype.kind == "U"
    if y.shape != x.shape[:1] or not (words or np.issubdtype(y.dtype, np.integer)):
        raise InputError(f"{path}: y must be {len(x)} integer labels, or names of classes, got {y.dtype} {y.shape}")
    return x, y.astype(np.str_) if words else y.astype(np.int64)


def _load_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an `.npz`, or that of an `.npy` as `x`."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            return {name: np.asarray(loaded[name]) for name in loaded}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable .npy or .npz of numbers: {error}") from error


def _load_table(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The features of a `.csv` as `x`, and its labels as `y`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            names, *rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a readable .csv of rows of numbers below a row of names: {error}") from error
    columns = names[1]
    if any(map(_is_number, columns)):
        raise InputError(f"{path}: the first row must name the columns, it has numbers: {', '.join(columns[:5])}")
    for line, row in rows:
        if len(row) != len(columns):
            raise InputError(f"{path}: line {line} has {len(row)} columns, the first row names {len(columns)}")
    labelled = columns[-1].strip().lower() == LABEL
    features = columns[: len(columns) - labelled]
    values = [[_number(path, line, *cell) for cell in zip(features, row, strict=False)] for line, row in rows]
    arrays: dict[str, npt.NDArray[np.generic]] = {"x": np.array(values).reshape(len(rows), len(features))}
    return arrays | {"y": _labels([row[-1] for _, row in rows])} if labelled else arrays


def _labels(words: Sequence[str]) -> npt.NDArray[np.generic]:
    """Whole numbers as int64, other numbers as float64, anything else as it stands."""
    if not all(map(_is_number, words)):
        return np.array([word.strip() for word in words], dtype=np.str_)
    labels = np.array(words, dtype=np.float64)
    whole = np.isfinite(labels).all() and (labels == np.rint(labels)).all()
    return labels.astype(np.int64) if whole else labels


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            f"{path}: line {line}, column {column!r}: {text!r} is no number; only a last column {LABEL} may hold words"
        ) from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_inputs(path: Path, array: npt.NDArray[np.generic], dtype: str = "float32") -> npt.NDArray[Any]:
    """Check that an array can be inputs and give it the model's dtype.

    Raises:
        InputError: no batch axis, not numbers, values that are not finite, or for a uint8 model anything but whole
            numbers of 0 to 255 in an integer dtype.
    """
    if array.ndim < 2 or not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
        raise InputError(f"{path}: expected real numbers of shape (N, ...), got {array.dtype} {array.shape}")
    if dtype == "uint8":
        return _as_pixels(path, array)
    with np.errstate(over="ignore"):
        x = array.astype(dtype)
    if not np.isfinite(x).all():
        raise InputError(f"{path}: some values are NaN or infinite in {dtype}")
    return x


def _as_pixels(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{path}: the model takes uint8, got {array.dtype}; give the pixels as they are, whole numbers of 0 to 255 "
            "in an integer dtype, neither scaled nor normalised"
        )
    if array.size and not (array.min() >= 0 and array.max() <= 255):
        raise InputError(f"{path}: the model takes uint8, 0 to 255, got {array.min()} to {array.max()}")
    return array.astype(np.uint8)


def check_batch(x: npt.NDArray[Any], spec: InputSpec) -> None:
    """Refuse a batch that the model would not take.

    Args:
        x: (N, ...) of the model's dtype.

    Raises:
        InputError: not an array of the model's dtype and shape, or rows that are not finite, which it names.
    """
    check_form(x, spec)
    if not np.isfinite(x).all():
        rows = rows_not_finite(x)
        raise InputError(f"input {spec.name!r}: {named(rows)} NaN or infinite", rows=np.flatnonzero(rows).tolist())


def check_form(x: npt.NDArray[Any], spec: InputSpec) -> None:
    """Refuse what is not an array (N, ...) of the model's dtype and shape.

    Raises:
        InputError: it is not.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.dtype(spec.dtype):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        advice = _advice(spec.dtype) if isinstance(x, np.ndarray) else f"use np.asarray(x, {spec.dtype!r})"
        raise InputError(f"input {spec.name!r}: expected a {spec.dtype} NumPy array, got {got}; {advice}")
    if not shape_fits(x.shape, (None, *spec.shape[1:])):  # the guard makes batches of a fixed size of any
        shape = tuple("N" if axis == 0 else size or "any" for axis, size in enumerate(spec.shape))
        hint = "; one input alone needs a batch axis: x[None]" if x.ndim == len(spec.shape) - 1 else ""
        raise InputError(f"input {spec.name!r}: expected shape {shape}, got {x.shape}{hint}".replace("'", ""))


def rows_not_finite(array: npt.NDArray[Any]) -> BoolArray:
    """(N,) bool, rows of an array (N, ...) that hold NaN or infinity."""
    rows: BoolArray = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    return rows


def named(rows: BoolArray) -> str:
    """Marked rows (N,) as the subject of a sentence: `row 3 is`, or `rows 3, 7 are`."""
    numbers = np.flatnonzero(rows).tolist()
    if len(numbers) == 1:
        return f"row {numbers[0]} is"
    more = f" and {len(numbers) - SHOWN_ROWS} more" if len(numbers) > SHOWN_ROWS else ""
    return f"rows {', '.join(map(str, numbers[:SHOWN_ROWS]))}{more} are"


def _advice(dtype: str) -> str:
    if dtype == "uint8":
        return "give the pixels as they are, 0 to 255, neither scaled nor normalised"
    return f"use x.astype('{dtype}')"
