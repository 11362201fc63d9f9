"""Read the calibration set: folders of images, or an `.npz`, `.npy` or `.csv` file."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.calibrate.clean_set.folders import read_folder
from mmguard.errors import CleanSetError, InputError
from mmguard.inputs.array_files import is_array_file, read_array
from mmguard.inputs.batch_checks import shape_fits
from mmguard.inputs.inputs import Inputs
from mmguard.inputs.spec import InputSpec
from mmguard.types import IntArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleanSet:
    """The calibration set, as read from its source: inputs that are known to be clean.

    Attributes:
        x: (N, ...) float32, inputs in the form that the model takes; if the model takes a dtype other than
            float32, that dtype can represent every value exactly.
        y: (N,) int64, indices into `named`, or class numbers if `named` is empty; None if there are no labels.
        named: sorted names of the classes, from folder names or from text labels; empty if the classes have no names.
        skipped: errors of the images or rows that were skipped.
        columns: names of the features of a table, in order; None if the source is not a table.
    """

    x: npt.NDArray[np.float32]
    y: IntArray | None
    named: tuple[str, ...] = ()
    skipped: tuple[InputError, ...] = ()
    columns: tuple[str, ...] | None = None


def read_clean(source: Path | Inputs, spec: InputSpec, skip_bad: bool = False) -> CleanSet:
    """Read the calibration set.

    Args:
        source: a folder with one subfolder per class, a folder of images, an `.npz` file with `x` and optionally labels
            `y`, an `.npy` file, or a `.csv` file with an optional column `label`; or inputs that were already read from
            such a file or are in memory.
        spec: description of the model's input, including the preprocessing if `source` is a folder.
        skip_bad: whether to skip images that cannot be decoded and rows that the model cannot take.

    Returns:
        The calibration set.

    Raises:
        CleanSetError: the calibration set is missing or empty, a class folder is empty, the inputs do not have the
            shape that the model takes, or the model cannot take a row and `skip_bad` is off.
        InputError: mmguard cannot read the file, or an image does not have the size that the model takes.
        UnreadableImageError: mmguard cannot decode an image and `skip_bad` is off.
    """
    if isinstance(source, Path) and source.is_dir():
        folder = read_folder(source, spec, skip_bad)
        return CleanSet(folder.x, folder.y, folder.classes, folder.skipped)
    inputs = read_arrays(source, spec.dtype) if isinstance(source, Path) else source
    _check_shape(inputs, spec)
    kept = _kept_rows(inputs, skip_bad)
    y, named = _named(inputs.source, None if inputs.y is None else inputs.y[kept], kept)
    skipped = tuple(InputError(f"row {row} {fault}") for row, fault in sorted(inputs.faults.items()))
    x = inputs.x[kept] if skipped else inputs.x
    return CleanSet(x.astype(np.float32, copy=False), y, named, skipped, inputs.columns)


def read_arrays(path: Path, dtype: str) -> Inputs:
    """Read a calibration set from a file.

    Args:
        path: an `.npz` file with `x` and optionally labels `y`, an `.npy` file, or a `.csv` file.
        dtype: NumPy name of the dtype that the model takes.

    Returns:
        The inputs with their labels.

    Raises:
        CleanSetError: the file does not exist, or is not an `.npz`, `.npy` or `.csv` file.
        InputError: mmguard cannot read the file.
    """
    forms = "a folder of images, or an .npz, .npy or .csv file"
    if not path.exists():
        raise CleanSetError(f"{path}: no such file or folder; pass the path of the calibration set: {forms}")
    if not is_array_file(path):
        got = f"a file with the suffix {path.suffix}" if path.suffix else "a file without a suffix"
        raise CleanSetError(
            f"{path}: expected the calibration set as {forms}, got {got}; convert it to one of these formats"
        )
    return read_array(path, dtype)


def _check_shape(inputs: Inputs, spec: InputSpec) -> None:
    """Check that there are inputs, and that the model takes their shape."""
    x, expected = inputs.x, spec.shape[1:]
    if not len(x):
        raise CleanSetError(f"{inputs.source}: the calibration set is empty; provide about 50 inputs per class")
    if shape_fits(x.shape[1:], expected):
        return
    sizes = ", ".join("any" if size is None else str(size) for size in expected)
    hint = "save the inputs in the shape that the model takes"
    if x.ndim == 2 and None not in expected and x.shape[1] == math.prod(size or 0 for size in expected):
        hint = f"each row has the right number of values, so save the inputs as .npz after x.reshape(-1, {sizes})"
    elif inputs.columns and expected and isinstance(expected[0], int) and len(inputs.columns) == expected[0] + 1:
        hint = "if one of the columns contains labels, rename it to label"
    raise CleanSetError(
        f"{inputs.source}: expected inputs of shape (N, {sizes}), the input shape of the model, got {x.shape}; {hint}"
    )


def _kept_rows(inputs: Inputs, skip_bad: bool) -> npt.NDArray[np.intp]:
    """Return the rows that the model can take."""
    kept = np.setdiff1d(np.arange(len(inputs.x)), list(inputs.faults))
    if not inputs.faults:
        return kept
    faults = inputs.describe_faults()
    if not skip_bad:
        raise CleanSetError(f"{faults}; fix or remove these rows, or pass --skip-bad to skip them")
    if not len(kept):
        raise CleanSetError(f"{faults}; no rows are left for the calibration; provide rows that the model can take")
    logger.info("skipping %d rows: %s", len(inputs.faults), faults)
    return kept


def _named(
    source: str, labels: IntArray | npt.NDArray[np.str_] | None, rows: npt.NDArray[np.intp]
) -> tuple[IntArray | None, tuple[str, ...]]:
    """Return the labels as numbers, and the class names if the labels are text."""
    if labels is None or labels.dtype.kind != "U":
        return labels, ()  # type: ignore[return-value]
    if "" in labels:
        raise CleanSetError(
            f"{source}: row {rows[labels == ''][0]} has no label; label every row, or leave out all labels"
        )
    names, index = np.unique(labels, return_inverse=True)
    return index.astype(np.int64), tuple(map(str, names))
