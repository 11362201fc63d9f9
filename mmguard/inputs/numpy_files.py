"""Read `.npy` and `.npz` files from untrusted sources, and refuse arrays that are too large for the file's size."""

import os
import zipfile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.files.opening import open_file
from mmguard.text.sanitize import shown

Array = npt.NDArray[np.generic]

NAMES = ("x", "y")
"""Names of the arrays to read from an `.npz` file: the inputs and their labels."""
MAX_RATIO, ALWAYS_ALLOWED = 200, 2**28
"""A compressed array may decompress to at most `MAX_RATIO` times its compressed size or `ALWAYS_ALLOWED` bytes,
whichever is larger."""


def load_numpy_file(path: Path) -> dict[str, Array]:
    """Load the arrays `x` and `y` of an `.npz` file, or the array of an `.npy` file as `x`.

    Args:
        path: the file. Its format is recognised by its content, not by its suffix.

    Returns:
        The arrays by name: always `x`, and `y` if the file contains it.

    Raises:
        InputError: The file is not an `.npy` or `.npz` file; is damaged, encrypted, or compressed in a way that Python
            cannot read; or contains Python objects, a structured array, or an array that is too large for the size of
            the file.
    """
    try:
        with open_file(path) as file:
            if file.read(2) == b"PK":
                return _load_npz(file)
            file.seek(0)
            return {"x": _load_npy(file, os.fstat(file.fileno()).st_size)}
    except InputError as error:
        raise InputError(f"{shown(path)}: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{shown(path)}: there is no such file; check the path") from error
    except Exception as error:  # damaged files make zipfile, its decoders and NumPy raise exceptions of many types
        raise InputError(
            f"{shown(path)}: not a readable .npy or .npz file of numbers: {error or type(error).__name__}; "
            "write the file with numpy.save or numpy.savez"
        ) from error


def _load_npz(file: IO[bytes]) -> dict[str, Array]:
    with zipfile.ZipFile(file) as archive:
        found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "x" not in found:
            raise InputError(f"expected an array named x and, optionally, an array named y, found {sorted(found)}")
        return {name: _load_member(archive, found[name]) for name in NAMES if name in found}


def _load_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    packed = min(info.compress_size, os.fstat(archive.fp.fileno()).st_size if archive.fp else 0)
    allowed = packed if info.compress_type == zipfile.ZIP_STORED else max(ALWAYS_ALLOWED, MAX_RATIO * packed)
    with archive.open(info) as member:
        return _load_npy(member, min(info.file_size, allowed))


def _load_npy(stream: IO[bytes], size: int) -> Array:
    """Load the array from a seekable `.npy` stream of at most `size` bytes."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise InputError(
            f"expected an array of plain numbers, got a structured array (.npy version {version}); "
            "provide numbers of shape (N, ...)"
        )
    if dtype.hasobject:
        raise InputError("expected an array of numbers, got Python objects; provide an array with a numeric dtype")
    claimed = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > size - stream.tell():
        raise InputError(
            f"the header describes an array of dtype {dtype} and shape {shape}, which needs {claimed:,} bytes, more "
            "than a file of this size should contain; if the file is intact, save the array without compression, with "
            "numpy.savez"
        )
    stream.seek(0)
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array
