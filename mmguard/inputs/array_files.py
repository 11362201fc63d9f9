"""Read inputs from array files (`.npy` and `.npz`) and from tables (`.csv`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.inputs.csv_files import parse_labels, read_csv
from mmguard.inputs.inputs import Inputs, out_of_memory
from mmguard.inputs.numpy_files import load_numpy_file
from mmguard.text.sanitize import shown

ARRAY_SUFFIXES = frozenset({".csv", ".npy", ".npz"})
"""Suffixes of the files that `read_array` reads, in lower case."""


def is_array_file(path: Path) -> bool:
    """Return whether a path ends in one of the suffixes that `read_array` supports.

    Args:
        path: a path, which need not exist.

    Returns:
        Whether the suffix is `.csv`, `.npy` or `.npz`, in upper or lower case.

    Example:
        >>> is_array_file(Path("clean.NPZ")), is_array_file(Path("clean.png"))
        (True, False)
    """
    return path.suffix.lower() in ARRAY_SUFFIXES


def read_array(path: Path, dtype: str = "float32") -> Inputs:
    """Read inputs from an `.npy` file, an `.npz` file with inputs `x` and optional labels `y`, or a `.csv` file.

    A `.csv` file contains comma-separated numbers in UTF-8. Its first row contains the column names. A column called
    `label` contains labels, which may be words. A row is faulty if a value in
    the row is missing, not finite or too large for the dtype; the other rows can still be used.

    Args:
        path: the file.
        dtype: name of the NumPy dtype that the model takes, such as `float32`.

    Returns:
        The inputs; their `source` is the path.

    Raises:
        InputError: The file cannot be read or contains no array `x`, the labels do not match the inputs, or the array
            does not contain numbers that the model can take.
    """
    try:
        if path.suffix.lower() == ".csv":
            return _read_table(path, dtype)
        arrays = load_numpy_file(path)
        return Inputs.of(arrays["x"], arrays.get("y"), dtype, shown(path))
    except MemoryError as error:
        raise InputError(out_of_memory(shown(path), error)) from error


def _read_table(path: Path, dtype: str) -> Inputs:
    table = read_csv(path)
    labels = None if table.labels is None else _labels(table.labels, table.faults)
    inputs = Inputs.of(table.x, labels, dtype, shown(path))
    return replace(inputs, columns=table.columns, faults=inputs.faults | table.faults)


def _labels(words: Sequence[str], faults: Mapping[int, str]) -> npt.NDArray[np.generic]:
    """Convert the labels of a table to an array, with a placeholder for every faulty row."""
    rows = [i for i in range(len(words)) if i not in faults]
    given = parse_labels([words[i] for i in rows])
    labels = np.zeros(len(words), given.dtype)
    labels[rows] = given
    return labels
