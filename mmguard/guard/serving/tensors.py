"""One tensor of the inference protocol: NumPy arrays to and from JSON, and to and from the binary extension's bytes."""

import math
from reprlib import repr as short
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError

HEADER_LENGTH = "Inference-Header-Content-Length"
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""NumPy's dtypes in the byte order of the wire. Strings are BYTES, which have no fixed size."""


def to_bytes(array: npt.NDArray[Any]) -> bytes:
    """A tensor as the binary extension writes it: row-major, little-endian; a string after its length in 4 bytes."""
    datatype = datatype_of(array)
    if datatype != "BYTES":
        return array.astype(DTYPES[datatype]).tobytes()
    encoded = [text.encode() for text in array.reshape(-1).tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def to_json(array: npt.NDArray[Any]) -> list[Any]:
    """A tensor as a flat list, row-major; null where a number is NaN or infinite."""
    values: list[Any] = array.reshape(-1).tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [value if math.isfinite(value) else None for value in values]
    return values


def datatype_of(array: npt.NDArray[Any]) -> str:
    """The protocol's name of an array's dtype."""
    if array.dtype.kind in "UO":
        return "BYTES"
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype.newbyteorder("<"))


def from_bytes(size: object, shape: tuple[int, ...], tail: memoryview, datatype: str, what: str) -> npt.NDArray[Any]:
    """Read the bytes behind the JSON; a copy, so that it is aligned.

    Args:
        size: `binary_data_size`, as it came. shape: as the client said. datatype: of the tensor, a key of `DTYPES`.
        what: names the tensor in errors.

    Returns:
        (product of `shape`,) of that dtype.

    Raises:
        InputError: the shape, the size and the bytes that came do not agree.
    """
    dtype = DTYPES[datatype]
    needed = dtype.itemsize * math.prod(shape)
    if type(size) is not int or not size == needed == len(tail):
        raise InputError(
            f"{what}: shape {short(list(shape))} of {datatype} is {short(needed)} bytes, binary_data_size is "
            f"{short(size)} and {len(tail)} bytes follow the JSON (check {HEADER_LENGTH} too)"
        )
    return np.frombuffer(tail, dtype=dtype).astype(dtype.newbyteorder("="))


def _check_numbers(data: object, what: str) -> None:
    """Refuse leaves that are no numbers before NumPy sees them: it would pad every string to the longest."""
    level = data if isinstance(data, list) else [data]
    while level:
        inner = [item for part in level if isinstance(part, list) for item in part]
        if not isinstance(data, list) or any(type(part) not in (int, float, list) for part in level):
            raise InputError(f"data of {what} must be a list of numbers only")
        level = inner


def from_json(data: object, shape: tuple[int, ...], datatype: str, what: str) -> npt.NDArray[Any]:
    """Read numbers from the JSON. One too large for the dtype is infinite.

    Args:
        data: a list, flat or nested as the shape says. shape: as the client said. datatype: a key of `DTYPES`.
        what: names the tensor in errors.

    Returns:
        `shape` or (product of `shape`,) of that dtype.

    Raises:
        InputError: not a list of numbers, of another shape, or integers that the dtype does not hold.
    """
    _check_numbers(data, what)
    try:
        values = np.asarray(data)
    except ValueError as error:
        raise InputError(f"data of {what} is not a list of numbers, flat or evenly nested") from error
    if values.dtype.kind not in "iuf":
        raise InputError(f"data of {what} must be a list of numbers only")
    if values.shape not in (shape, (math.prod(shape),)):
        raise InputError(f"data of {what} has shape {values.shape}, its shape says {short(list(shape))}")
    dtype = DTYPES[datatype].newbyteorder("=")
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(result, values):
        raise InputError(f"data of {what} must be integers that {datatype} holds")
    return result
