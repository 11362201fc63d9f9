"""Converts between NumPy arrays and tensors of the Open Inference Protocol, in JSON or in binary form."""

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
"""NumPy dtypes, keyed by protocol datatype. They are little-endian, as the protocol requires.

Strings (datatype BYTES) are not included, because the size of a string varies.
"""

INPUTS = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "uint8": "UINT8"}
"""Protocol datatypes that an input can have, keyed by NumPy dtype name."""
SLICE = 2**16
"""Number of bytes of JSON to read, or number of values to write, in one step.

Other threads cannot run during a step.
"""
BLANKS = b" \t\r\n"
NUMBERS = BLANKS + b"0123456789+-.eE"
"""Characters that can occur in a list of numbers, except brackets and commas."""
WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")
DIGITS = bytes.maketrans(b"123456789+-.eE", b"0" * 14)


def to_bytes(array: npt.NDArray[Any]) -> bytes:
    """Encode an array as bytes for the binary tensor extension, in row-major order and little-endian.

    Args:
        array: an array of any shape that contains strings or has a dtype in `DTYPES`.

    Returns:
        The bytes. Each string is preceded by its length in bytes, as a 4-byte integer.

    Example:
        >>> to_bytes(np.array(["cat"]))[4:]
        b'cat'
    """
    datatype = datatype_of(array)
    if datatype != "BYTES":
        return array.astype(DTYPES[datatype]).tobytes()
    encoded = [text.encode() for text in array.reshape(-1).tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def to_json(array: npt.NDArray[Any]) -> bytes:
    """Encode an array as a flat JSON list in row-major order.

    Args:
        array: an array of any shape that contains numbers, booleans or strings.

    Returns:
        The JSON. NaN and infinity become null, because JSON cannot represent them.

    Example:
        >>> to_json(np.array([[1.5, np.nan]]))
        b'[1.5,null]'
    """
    flat = array.reshape(-1)
    pieces = (msgspec.json.encode(flat[i : i + SLICE].tolist())[1:-1] for i in range(0, flat.size, SLICE))
    return b"[" + b",".join(pieces) + b"]"


def datatype_of(array: npt.NDArray[Any]) -> str:
    """Return the protocol datatype of an array.

    Args:
        array: an array that contains strings or has a dtype in `DTYPES`.

    Returns:
        The datatype, such as `FP32`; `BYTES` for strings.

    Example:
        >>> datatype_of(np.zeros(2, np.float32))
        'FP32'
    """
    if array.dtype.kind in "UO":
        return "BYTES"
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype.newbyteorder("<"))


def from_bytes(size: object, shape: tuple[int, ...], binary: memoryview, datatype: str, what: str) -> npt.NDArray[Any]:
    """Decode a tensor from the bytes that follow the JSON.

    Args:
        size: value of the parameter `binary_data_size` in the request, which has not been checked yet.
        shape: shape of the tensor as stated in the request.
        binary: the bytes after the JSON.
        datatype: datatype of the tensor, a key of `DTYPES`.
        what: name of the tensor, used in error messages.

    Returns:
        A new, aligned, one-dimensional array of the values. Its dtype corresponds to `datatype`.

    Raises:
        InputError: `shape`, `size` and the length of `binary` are inconsistent.
    """
    dtype = DTYPES[datatype]
    needed = dtype.itemsize * math.prod(shape)
    if type(size) is not int or not size == needed == len(binary):
        raise InputError(
            f"{what}: a tensor of datatype {datatype} and shape {short(list(shape))} needs {short(needed)} bytes, but "
            f"binary_data_size is {short(size)} and {len(binary)} bytes follow the JSON; also check the header "
            f"{HEADER_LENGTH}"
        )
    return np.frombuffer(binary, dtype=dtype).astype(dtype.newbyteorder("="))


def from_json(data: memoryview, shape: tuple[int, ...], datatype: str, what: str) -> npt.NDArray[Any]:
    """Decode a tensor from JSON.

    The numbers are decoded in slices, to limit the number of Python objects that exist at the same time.

    Args:
        data: the text of the field `data`, which may be invalid JSON.
        shape: shape of the tensor as stated in the request.
        datatype: datatype of the tensor, a key of `DTYPES`.
        what: name of the tensor, used in error messages.

    Returns:
        The numbers as a one-dimensional array, whose dtype corresponds to `datatype`. A number that is too large for a
        float dtype becomes infinity.

    Raises:
        InputError: The data is neither a flat list of numbers nor nested lists of numbers that match the shape, or
            `datatype` is an integer type that cannot represent one of the numbers.
    """
    _check_form(data, shape, what)
    values = np.empty(math.prod(shape), DTYPES[datatype].newbyteorder("="))
    filled = 0
    for numbers in _slices(data, shape, what) if len(values) else ():
        values[filled : filled + len(numbers)] = _cast(numbers, datatype, what)
        filled += len(numbers)
    if filled != len(values):
        raise InputError(_misfit(shape, what))
    return values


def _check_form(data: memoryview, shape: tuple[int, ...], what: str) -> None:
    """Check that the data contains only numbers in a flat list, or in nested lists that match the shape."""
    steps = range(0, len(data), SLICE)
    numbers = NUMBERS if math.prod(shape) else BLANKS
    form = b"".join(bytes(data[i : i + SLICE]).translate(None, numbers) for i in steps)
    if not any(_has_form(form, each) for each in ((math.prod(shape),), shape)):
        raise InputError(_misfit(shape, what))


def _has_form(form: bytes, shape: tuple[int, ...]) -> bool:
    """Return whether `form` equals the brackets and commas in the JSON of an array with the given shape.

    The comparison never builds a text longer than `form`.
    """
    expected = b""
    for size in reversed(shape):
        if size * (len(expected) + 1) > len(form):
            return False
        expected = b"[" + ((expected + b",") * size)[:-1] + b"]"
    return form == expected


def _slices(data: memoryview, shape: tuple[int, ...], what: str) -> Iterator[list[float]]:
    """Yield the numbers as flat lists of several thousand numbers each."""
    while data:
        piece = bytes(data[:SLICE])
        end = len(piece) if len(data) <= SLICE else piece.rfind(b",")
        if end < 0:
            raise InputError(f"data of {what}: a number is longer than {SLICE} bytes; use fewer digits")
        form = piece[:end].translate(DIGITS, BLANKS)
        if b"0[" in form or b"]0" in form:
            raise InputError(_misfit(shape, what))
        try:
            yield msgspec.json.decode(b"[" + piece[:end].translate(WITHOUT_BRACKETS) + b"]", type=list[float])
        except msgspec.ValidationError as error:
            raise InputError(f"data of {what} must contain only numbers within the range of float64") from error
        except msgspec.DecodeError as error:
            raise InputError(_misfit(shape, what)) from error
        data = data[end + 1 :]


def _cast(numbers: list[float], datatype: str, what: str) -> npt.NDArray[Any]:
    values = np.array(numbers)
    dtype = DTYPES[datatype].newbyteorder("=")
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(result, values):
        raise InputError(f"data of {what} must contain only integers within the range of {datatype}")
    return result


def _misfit(shape: tuple[int, ...], what: str) -> str:
    return f"data of {what} must be a list of numbers, either flat or nested to match the shape {short(list(shape))}"
