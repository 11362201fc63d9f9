"""Arrays as inputs of a model: reading them, and the check at the guard's door."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.arrays import load_arrays
from mmguard.errors import InputError
from mmguard.types import InputSpec, IntArray

ARRAY_SUFFIXES = frozenset({".csv", ".npy", ".npz"})
"""Files that `read_array` reads."""

LABEL = "label"
"""Name of a table's last column where that holds labels."""


def shape_fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape is the expected one; None there is an axis of any length."""
    return len(shape) == len(expected) and all(w in (None, got) for w, got in zip(expected, shape, strict=True))


def is_array(path: Path) -> bool:
    """Whether a file's name says that `read_array` reads it."""
    return path.suffix.lower() in ARRAY_SUFFIXES


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
    arrays = _load_table(path) if path.suffix.lower() == ".csv" else load_arrays(path)
    x, y = as_inputs(path, arrays["x"], dtype), arrays.get("y")
    if y is None:
        return x, None
    words = y.dtype.kind == "U"
    if y.shape != x.shape[:1] or y.dtype.kind not in "iuU":
        raise InputError(f"{path}: y must be {len(x)} integer labels, or names of classes, got {y.dtype} {y.shape}")
    return x, y.astype(np.str_) if words else y.astype(np.int64)


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
    if array.ndim < 2 or array.dtype.kind not in "iuf":
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
        InputError: not an array of the model's dtype and shape, or values that are not finite.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.dtype(spec.dtype):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        advice = _advice(spec.dtype) if isinstance(x, np.ndarray) else f"use np.asarray(x, {spec.dtype!r})"
        raise InputError(f"input {spec.name!r}: expected a {spec.dtype} NumPy array, got {got}; {advice}")
    if not shape_fits(x.shape, (None, *spec.shape[1:])):  # the guard makes batches of a fixed size of any
        shape = tuple("N" if axis == 0 else size or "any" for axis, size in enumerate(spec.shape))
        hint = "; one input alone needs a batch axis: x[None]" if x.ndim == len(spec.shape) - 1 else ""
        raise InputError(f"input {spec.name!r}: expected shape {shape}, got {x.shape}{hint}".replace("'", ""))
    if not np.isfinite(x).all():
        raise InputError(f"input {spec.name!r}: some values are NaN or infinite")


def _advice(dtype: str) -> str:
    if dtype == "uint8":
        return "give the pixels as they are, 0 to 255, neither scaled nor normalised"
    return f"use x.astype('{dtype}')"
