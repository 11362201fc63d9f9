"""Arrays as inputs of a model: reading them, and the check at the guard's door."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.files.listing import shown
from mmguard.inputs.arrays import load_arrays
from mmguard.inputs.spec import InputSpec
from mmguard.inputs.tables import parse_labels, read_table
from mmguard.text.format import NAMED, some
from mmguard.text.sanitize import visible
from mmguard.types import IntArray

ARRAY_SUFFIXES = frozenset({".csv", ".npy", ".npz"})
"""Files that `read_array` reads, by suffix in small letters."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a file of arrays or a table holds.

    Attributes:
        x: (N, ...) of the model's dtype, in its own layout.
        y: labels (N,), int64 or strings, or None.
        columns: names of the features of a table, in the order of x; None of an array.
        faults: why rows cannot be inputs, by their number from 0; what x and y have there means nothing.
    """

    x: npt.NDArray[Any]
    y: IntArray | npt.NDArray[np.str_] | None = None
    columns: tuple[str, ...] | None = None
    faults: dict[int, str] = field(default_factory=dict)


def is_array(path: Path) -> bool:
    """Whether a file's name says that `read_array` reads it."""
    return path.suffix.lower() in ARRAY_SUFFIXES


def read_array(path: Path, dtype: str = "float32") -> Inputs:
    """Read inputs from an `.npy` (inputs), an `.npz` (`x`, and optionally labels `y`) or a `.csv`.

    A `.csv` is UTF-8, comma-separated numbers. Its first row names the columns; a column `label` holds labels, which
    may be words. Values that are missing, not finite or too large for the dtype are a fault of their row alone.

    Args:
        dtype: NumPy's name of the dtype that the model takes.

    Raises:
        InputError: not such a file, no `x`, an object array, labels that do not match, or not numbers that the model
            can take.
    """
    try:
        return _read(path, dtype)
    except MemoryError as error:
        raise InputError(f"{shown(path)}: it does not fit into memory ({error}); give it in parts") from error


def _read(path: Path, dtype: str) -> Inputs:
    columns, faults = None, dict[int, str]()
    if path.suffix.lower() == ".csv":
        table = read_table(path)
        columns, faults = table.columns, table.faults
        arrays: dict[str, npt.NDArray[np.generic]] = {"x": table.x}
        if table.labels is not None:
            arrays["y"] = _labels(table.labels, faults)
    else:
        arrays = load_arrays(path)
    x, unfit = as_inputs(path, arrays["x"], dtype)
    return Inputs(x, _as_labels(path, arrays.get("y"), len(x)), columns, unfit | faults)


def _labels(words: Sequence[str], faults: Mapping[int, str]) -> npt.NDArray[np.generic]:
    """The labels of a table; those of faulty rows are of no class."""
    rows = [i for i in range(len(words)) if i not in faults]
    given = parse_labels([words[i] for i in rows])
    labels = np.zeros(len(words), given.dtype)
    labels[rows] = given
    return labels


def _as_labels(path: Path, y: npt.NDArray[np.generic] | None, n: int) -> IntArray | npt.NDArray[np.str_] | None:
    if y is None:
        return None
    if y.shape != (n,) or y.dtype.kind not in "iuU":
        raise InputError(f"{shown(path)}: y must be {n} integer labels, or names of classes, got {y.dtype} {y.shape}")
    return y.astype(np.str_) if y.dtype.kind == "U" else y.astype(np.int64)


def as_inputs(path: Path, array: npt.NDArray[Any], dtype: str = "float32") -> tuple[npt.NDArray[Any], dict[int, str]]:
    """Check that an array can be inputs and give it the model's dtype.

    Returns:
        Inputs (N, ...), and by number the rows that the model cannot take: values that are not finite in its dtype, or
        for a uint8 model not in 0 to 255.

    Raises:
        InputError: no batch axis, not numbers, or for a uint8 model no integer dtype.
    """
    if array.ndim < 2 or array.dtype.kind not in "iuf":
        raise InputError(f"{shown(path)}: expected real numbers of shape (N, ...), got {array.dtype} {array.shape}")
    if dtype == "uint8":
        if array.dtype.kind == "f":
            raise InputError(
                f"{shown(path)}: the model takes uint8, got {array.dtype}; give the pixels as they are, whole numbers "
                "of 0 to 255 in an integer dtype, neither scaled nor normalised"
            )
        fits, fault = (array >= 0) & (array <= 255), "has values outside of 0 to 255, and the model takes uint8"
        x = array.astype(dtype, order="C")
    else:
        with np.errstate(over="ignore"):
            x = array.astype(dtype, order="C")
        fits, fault = np.isfinite(x), f"has values that are NaN or infinite in {dtype}"
    bad = np.flatnonzero(~fits.all(axis=tuple(range(1, x.ndim))))
    return x, dict.fromkeys(bad.tolist(), fault)


def name_faults(path: Path, faults: Mapping[int, str]) -> str:
    """Faulty rows in words: the first with its reason, some more by number."""
    first, *others = sorted(faults)
    more = f"; {len(others)} more cannot be taken: {some(others)}" if others else ""
    return f"{shown(path)}: row {first} {faults[first]}{more}"


def match_columns(path: Path, inputs: Inputs, spec: InputSpec) -> Inputs:
    """Put the columns of a table in the order of the model's features, by name.

    Args:
        path: of the table, for messages. inputs: what was read of it. spec: the model's, with the features' names where
            the bundle has them.

    Returns:
        The inputs as they are where either has no names.

    Raises:
        InputError: the names are not the model's.
    """
    if inputs.columns is None:
        return inputs
    if spec.columns is None:
        logger.info("the bundle was not calibrated on a table, so the columns of %s are taken by position", shown(path))
        return inputs
    missing = [name for name in spec.columns if name not in inputs.columns]
    extra = [name for name in inputs.columns if name not in spec.columns]
    if missing or extra:
        raise InputError(
            f"{shown(path)}: the columns are not those that the bundle was calibrated on: "
            f"{_listed('missing', missing)}; {_listed('not known', extra)}{_closest(missing, extra)}; "
            f"it takes {visible(some(spec.columns, 20))}"
        )
    if inputs.columns == spec.columns:
        return inputs
    logger.info("the columns of %s are in another order than the bundle's, and are put in order by name", shown(path))
    order = [inputs.columns.index(name) for name in spec.columns]
    return replace(inputs, x=inputs.x[:, order], columns=spec.columns)


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {visible(some(names)) or 'none'}"


def _closest(missing: Sequence[str], extra: Sequence[str]) -> str:
    """A column that may be meant by another name."""
    folded = {name.casefold(): name for name in missing}
    for name in extra[:NAMED]:
        if close := difflib.get_close_matches(name.casefold(), folded, 1):
            return visible(f" ({name} may be {folded[close[0]]})")
    return ""
