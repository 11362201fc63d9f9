"""Arrays as inputs of a model: reading them, and the check at the guard's door."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.types import InputSpec


def shape_fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape is the expected one; None there is an axis of any length."""
    return len(shape) == len(expected) and all(w in (None, got) for w, got in zip(expected, shape, strict=True))


def empty_batch(spec: InputSpec) -> npt.NDArray[np.float32]:
    """A batch of no inputs: float32 (0, ...), dynamic axes of length 1."""
    return np.zeros((0, *(size or 1 for size in spec.shape[1:])), dtype=np.float32)


def read_array(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64] | None]:
    """Read inputs from an `.npy` (inputs) or `.npz` (`x`, and optionally labels `y`).

    Returns:
        Inputs float32 (N, ...) in the model's own layout, and labels (N,) int64 or None.

    Raises:
        InputError: not such a file, no `x`, an object array, or labels that do not match.
    """
    arrays = _load_arrays(path)
    if "x" not in arrays:
        raise InputError(f"{path}: expected an array named x (and optionally y), found {sorted(arrays)}")
    x, y = as_inputs(path, arrays["x"]), arrays.get("y")
    if y is None:
        return x, None
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"{path}: y must be {len(x)} integer labels, got {y.dtype} {y.shape}")
    return x, y.astype(np.int64)


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


def as_inputs(path: Path, array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Check that an array can be inputs and make it float32.

    Raises:
        InputError: no batch axis, not numbers, or values that are not finite.
    """
    if array.ndim < 2 or not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
        raise InputError(f"{path}: expected real numbers of shape (N, ...), got {array.dtype} {array.shape}")
    with np.errstate(over="ignore"):
        x = array.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError(f"{path}: some values are NaN or infinite")
    return x


def check_batch(x: npt.NDArray[np.float32], spec: InputSpec) -> None:
    """Refuse a batch that the model would not take.

    Args:
        x: (N, ...) float32.

    Raises:
        InputError: not a float32 array of the model's shape, or values that are not finite.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"input {spec.name!r}: expected a float32 NumPy array, got {got}; use x.astype('float32')")
    if not shape_fits(x.shape, spec.shape):
        shape = tuple("N" if axis == 0 else size or "any" for axis, size in enumerate(spec.shape))
        hint = "; one input alone needs a batch axis: x[None]" if x.ndim == len(spec.shape) - 1 else ""
        raise InputError(f"input {spec.name!r}: expected shape {shape}, got {x.shape}{hint}".replace("'", ""))
    if not np.isfinite(x).all():
        raise InputError(f"input {spec.name!r}: some values are NaN or infinite")
