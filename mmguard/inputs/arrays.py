"""The arrays of `.npy` and `.npz` files that others made: none takes more memory than its file can hold."""

import os
import zipfile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.files.listing import open_file, shown

Array = npt.NDArray[np.generic]

NAMES = ("x", "y")
"""Arrays that are read of an `.npz`: inputs and labels."""
MAX_RATIO, ALWAYS_ALLOWED = 200, 2**28
"""A compressed array may have so many times the bytes that it has in the file, or this many bytes."""


def load_arrays(path: Path) -> dict[str, Array]:
    """The arrays `x` and `y` of an `.npz`, as far as it has them, or that of an `.npy` as `x`.

    Raises:
        InputError: not such a file, damaged, encrypted or packed in a way that Python does not read, or an array of
            Python objects, of fields, or of more bytes than the file can hold.
    """
    try:
        with open_file(path) as file:
            if file.read(2) == b"PK":
                return _members(file)
            file.seek(0)
            return {"x": _array(file, os.fstat(file.fileno()).st_size)}
    except InputError as error:
        raise InputError(f"{shown(path)}: {error}") from error
    except Exception as error:  # zipfile, its decoders and NumPy raise what they like on a damaged file
        raise InputError(
            f"{shown(path)}: not a readable .npy or .npz of numbers: {error or type(error).__name__}; "
            "write it with numpy.save or numpy.savez"
        ) from error


def _members(file: IO[bytes]) -> dict[str, Array]:
    with zipfile.ZipFile(file) as archive:
        found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "x" not in found:
            raise InputError(f"expected an array named x (and optionally y), found {sorted(found)}")
        return {name: _member(archive, found[name]) for name in NAMES if name in found}


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    packed = min(info.compress_size, os.fstat(archive.fp.fileno()).st_size if archive.fp else 0)
    allowed = packed if info.compress_type == zipfile.ZIP_STORED else max(ALWAYS_ALLOWED, MAX_RATIO * packed)
    with archive.open(info) as member:
        return _array(member, min(info.file_size, allowed))


def _array(stream: IO[bytes], size: int) -> Array:
    """The array of an `.npy` stream.

    Args:
        stream: at its beginning, seekable. size: bytes that it may have.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise InputError(f"an array of fields (.npy version {version}); give numbers of shape (N, ...)")
    if dtype.hasobject:
        raise InputError("an array of Python objects, which are not read; give numbers of one dtype")
    claimed = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > size - stream.tell():
        raise InputError(
            f"its header claims {dtype} {shape}, {claimed:,} bytes, more than a file of this size should hold; if it "
            "is not damaged, write it again with numpy.savez, which does not compress"
        )
    stream.seek(0)
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array
