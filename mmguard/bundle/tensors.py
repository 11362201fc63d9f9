"""Read and write float32 tensors in safetensors files.

A bundle may come from an untrusted source, so all content of a file is checked before use.
"""

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
"""Largest size of a file's header, in bytes. The name, dtype and shape of one tensor take about 100 bytes."""
MAX_RANK = 16


def write_tensors(path: Path, tensors: Mapping[str, Floats]) -> None:
    """Write float32 arrays to a safetensors file.

    Args:
        path: the file to write.
        tensors: arrays of any shape by name.
    """
    path.write_bytes(save({name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}))


def read_shapes(path: Path) -> Shapes:
    """Read the shapes of a file's tensors without reading their values.

    Args:
        path: a safetensors file.

    Returns:
        The shape of each tensor by name.

    Raises:
        TamperedBundleError: The file is not a readable safetensors file, or a tensor is not float32 or has more than 16
            axes.
    """
    _check_header_size(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise TamperedBundleError(_unreadable(path, error)) from error
    for name, (dtype, shape) in found.items():
        if dtype != "F32" or len(shape) > MAX_RANK:
            raise TamperedBundleError(
                f"{path}: expected {name!r} to be F32 with at most {MAX_RANK} axes, got {dtype} of shape {shape}; do "
                "not use this bundle"
            )
    return {name: shape for name, (_, shape) in found.items()}


def read_tensors(path: Path) -> dict[str, Floats]:
    """Read the tensors of a file.

    Args:
        path: a safetensors file.

    Returns:
        Finite float32 arrays by name.

    Raises:
        TamperedBundleError: The file is not a readable safetensors file, or a tensor is not float32, has more than 16
            axes or contains NaN or infinity.
    """
    names = read_shapes(path)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors: dict[str, Floats] = {name: file.get_tensor(name) for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise TamperedBundleError(_unreadable(path, error)) from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise TamperedBundleError(f"{path}: {name!r} contains NaN or infinity; do not use this bundle")
    return tensors


def _check_header_size(path: Path) -> None:
    """Check the size of the header, because the safetensors library accepts headers of up to 100 MB."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise TamperedBundleError(_unreadable(path, error)) from error
    if size > MAX_HEADER:
        raise TamperedBundleError(_unreadable(path, "its header is larger than 4 MiB"))


def _unreadable(path: Path, reason: object) -> str:
    return f"{path} is not a readable safetensors file: {reason}"
