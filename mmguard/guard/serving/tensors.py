"""One tensor of the inference protocol: NumPy arrays to and from JSON, and to and from the binary extension's bytes."""

import math
from collections.abc import Iterator
from reprlib import repr as short
from typing import Any

import msgspec
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

INPUTS = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "uint8": "UINT8"}
"""Datatypes of inputs, by NumPy's name of the dtype."""
SLICE = 2**16
"""Bytes of JSON that are read, and numbers that are written, at once. No other thread runs in the meantime."""
BLANKS = b" \t\r\n"
NUMBERS = BLANKS + b"0123456789+-.eE"
"""What may be in a list of numbers beside brackets and commas."""
WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")
DIGITS = bytes.maketrans(b"123456789+-.eE", b"0" * 14)


def to_bytes(array: npt.NDArray[Any]) -> bytes:
    """A tensor as the binary extension writes it: row-major, little-endian; a string after its length in 4 bytes."""
    datatype = datatype_of(array)
    if datatype != "BYTES":
        return array.astype(DTYPES[datatype]).tobytes()
    encoded = [text.encode() for text in array.reshape(-1).tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def to_json(array: npt.NDArray[Any]) -> bytes:
    """A tensor as a flat list, row-major; null where a number is NaN or infinite."""
    flat = array.reshape(-1)
    pieces = (msgspec.json.encode(flat[i : i + SLICE].tolist())[1:-1] for i in range(0, flat.size, SLICE))
    return b"[" + b",".join(pieces) + b"]"


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


def from_json(data: memoryview, shape: tuple[int, ...], datatype: str, what: str) -> npt.NDArray[Any]:
    """Read numbers from the JSON, a slice at a time: no more than a slice of them are ever Python's objects.

    Args:
        data: JSON, as far as is known. shape: as the client said. datatype: a key of `DTYPES`.
        what: names the tensor in errors.

    Returns:
        (product of `shape`,) of that dtype. A number too large for the dtype is infinite.

    Raises:
        InputError: not a list of numbers, flat or nested as the shape says, or integers that the dtype does not hold.
    """
    _check_form(data, shape, what)
    values = np.empty(math.prod(shape), DTYPES[datatype].newbyteorder("="))
    filled = 0
    for numbers in _slices(data, shape, what) if len(values) else ():
        values[filled : filled + len(numbers)] = _cast(numbers, datatype, what)
        filled += len(numbers)
    if filled != len(values):
        raise _misfit(shape, what)
    return values


def _check_form(data: memoryview, shape: tuple[int, ...], what: str) -> None:
    """Refuse data that have other brackets and commas, or other values than numbers, than a list of that shape has."""
    steps = range(0, len(data), SLICE)
    numbers = NUMBERS if math.prod(shape) else BLANKS
    form = b"".join(bytes(data[i : i + SLICE]).translate(None, numbers) for i in steps)
    if not any(_has_form(form, each) for each in ((math.prod(shape),), shape)):
        raise _misfit(shape, what)


def _has_form(form: bytes, shape: tuple[int, ...]) -> bool:
    """Whether brackets and commas are those of a list of that shape. None longer than what came is made to compare."""
    expected = b""
    for size in reversed(shape):
        if size * (len(expected) + 1) > len(form):
            return False
        expected = b"[" + ((expected + b",") * size)[:-1] + b"]"
    return form == expected


def _slices(data: memoryview, shape: tuple[int, ...], what: str) -> Iterator[list[float]]:
    """The numbers, flat, in lists of some thousands."""
    while data:
        piece = bytes(data[:SLICE])
        end = len(piece) if len(data) <= SLICE else piece.rfind(b",")
        if end < 0:
            raise InputError(f"a number in data of {what} has more than {SLICE} bytes")
        form = piece[:end].translate(DIGITS, BLANKS)
        if b"0[" in form or b"]0" in form:
            raise _misfit(shape, what)
        try:
            yield msgspec.json.decode(b"[" + piece[:end].translate(WITHOUT_BRACKETS) + b"]", type=list[float])
        except msgspec.ValidationError as error:
            raise InputError(f"data of {what} must be numbers that float64 holds") from error
        except msgspec.DecodeError as error:
            raise _misfit(shape, what) from error
        data = data[end + 1 :]


def _cast(numbers: list[float], datatype: str, what: str) -> npt.NDArray[Any]:
    values = np.array(numbers)
    dtype = DTYPES[datatype].newbyteorder("=")
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(result, values):
        raise InputError(f"data of {what} must be integers that {datatype} holds")
    return result


def _misfit(shape: tuple[int, ...], what: str) -> InputError:
    return InputError(
        f"data of {what} must be a list of numbers, flat or nested as its shape {short(list(shape))} says"
    )
