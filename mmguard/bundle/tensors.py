"""Float32 tensors in safetensors files. Those of a bundle may be anybody's, so all is checked before it is read."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmguard.errors import TamperedBundleError

Floats = npt.NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]

MAX_HEADER = 4 * 2**20
"""Bytes of a file's header: names, dtypes and shapes of tensors take some hundred bytes each."""
MAX_RANK = 16


def write_tensors(path: Path, tensors: Mapping[str, Floats]) -> None:
    """Write float32 arrays as safetensors."""
    path.write_bytes(save({name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}))


def read_shapes(path: Path) -> Shapes:
    """The shapes of a file's tensors by name; the numbers are not read.

    Raises:
        TamperedBundleError: no safetensors file, or of another dtype than float32 or of more than 16 axes.
    """
    _require_small_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    for name, (dtype, shape) in found.items():
        if dtype != "F32" or len(shape) > MAX_RANK:
            raise TamperedBundleError(f"{path}: {name!r} must be F32 of at most {MAX_RANK} axes, it is {dtype} {shape}")
    return {name: shape for name, (_, shape) in found.items()}


def read_tensors(path: Path) -> dict[str, Floats]:
    """The tensors of a file by name.

    Raises:
        TamperedBundleError: as of `read_shapes`, or a number is NaN or infinite.
    """
    names = read_shapes(path)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors: dict[str, Floats] = {name: file.get_tensor(name) for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise TamperedBundleError(f"{path}: {name!r} holds numbers that are NaN or infinite")
    return tensors


def _require_small_header(path: Path) -> None:
    """The reader itself would take a header of 100 MB."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise _unreadable(path, error) from error
    if size > MAX_HEADER:
        raise TamperedBundleError(f"{path} is not a readable safetensors file: it has no header of at most 4 MiB")


def _unreadable(path: Path, error: Exception) -> TamperedBundleError:
    return TamperedBundleError(f"{path} is not a readable safetensors file: {error}")
