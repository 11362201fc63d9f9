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
    "INT64": np.dtype("<i8"),
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
    if array.dtype.kind == "U":
        return "BYTES"
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype.newbyteorder("<"))


def from_bytes(size: object, shape: tuple[int, ...], tail: memoryview, what: str) -> npt.NDArray[np.float32]:
    """Read the bytes behind the JSON; a copy, so that it is aligned.

    Args:
        size: `binary_data_size`, as it came. shape: as the client said. what: names the tensor in errors.

    Returns:
        (product of `shape`,) float32.

    Raises:
        InputError: the shape, the size and the bytes that came do not agree.
    """
    needed = 4 * math.prod(shape)
    if type(size) is not int or not size == needed == len(tail):
        raise InputError(
            f"{what}: shape {short(list(shape))} of FP32 is {short(needed)} bytes, binary_data_size is {short(size)} "
            f"and {len(tail)} bytes follow the JSON (check {HEADER_LENGTH} too)"
        )
    return np.frombuffer(tail, dtype=DTYPES["FP32"]).astype(np.float32)


def _check_numbers(data: object, what: str) -> None:
    """Refuse leaves that are no numbers before NumPy sees them: it would pad every string to the longest."""
    level = data if isinstance(data, list) else [data]
    while level:
        inner = [item for part in level if isinstance(part, list) for item in part]
        if not isinstance(data, list) or any(type(part) not in (int, float, list) for part in level):
            raise InputError(f"data of {what} must be a list of numbers only")
        level = inner


def from_json(data: object, shape: tuple[int, ...], what: str) -> npt.NDArray[np.float32]:
    """Read numbers from the JSON. One too large for float32 is infinite.

    Args:
        data: a list, flat or nested as the shape says. shape: as the client said. what: names the tensor in errors.

    Returns:
        `shape` or (product of `shape`,) float32.

    Raises:
        InputError: not a list of numbers, or of another shape.
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
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
