"""Turn untrusted JSON into dataclasses.

Missing and unknown fields, values of the wrong type, and texts that are too large are refused.
"""

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

T = TypeVar("T")

MAX_VALUES = 2**20
"""Largest number of JSON values and keys in one text; each takes about 100 bytes in memory."""
MAX_CONTAINERS = 2**16
"""Largest number of lists and objects in one text; Python's garbage collector visits all of them repeatedly."""
MAX_OBJECTS = 10_000
"""Largest number of objects in one list or in one object."""
SHOWN, SHOWN_FIELDS = 300, 5
"""Largest number of characters to show of an error message, and largest number of fields to list in a message."""


def read_json(text: bytes) -> Any:
    """Parse JSON in UTF-8, and refuse NaN, infinities, lone surrogates, and texts with too many values.

    Args:
        text: the JSON text.

    Returns:
        Dicts, lists and scalars.

    Raises:
        ValueError: The text is not JSON, or contains values that are refused.

    Example:
        >>> read_json(b'{"seed": 0}')
        {'seed': 0}
    """
    containers = text.count(b"[") + text.count(b"{")
    if containers > MAX_CONTAINERS or containers + text.count(b",") + text.count(b":") > MAX_VALUES:
        raise ValueError(
            f"it has more than {MAX_VALUES} values and keys, or more than {MAX_CONTAINERS} lists and objects"
        )
    try:
        return msgspec.json.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode(raw: Any, kind: type[T]) -> T:
    """Build a dataclass from parsed JSON.

    Each scalar must have the type of its field, except that a whole number is accepted for a float. Constraints on
    types are given with `msgspec.Meta`. Arrays are built from nested lists of numbers.

    Args:
        raw: the parsed JSON, as returned by `read_json`.
        kind: the dataclass to build.

    Returns:
        An instance of `kind`.

    Raises:
        ValueError: A field is missing or unknown, has the wrong type or is out of range; the message contains the
            path of the field.
    """
    _require_fields(raw, kind, kind.__name__)
    try:
        return msgspec.convert(raw, kind, dec_hook=_array)
    except (ValueError, RecursionError) as error:
        raise ValueError(shortened(error)) from error


def shortened(error: object) -> str:
    """Shorten an error message, which may quote a long text.

    Args:
        error: an exception, or any other object to convert with `str`.

    Returns:
        The first 300 characters of the message, followed by an ellipsis if the message is longer.

    Example:
        >>> len(shortened("x" * 1000))
        302
    """
    text = str(error)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


def _require_fields(raw: Any, kind: Any, where: str) -> None:
    """Refuse missing and unknown fields of dataclasses at any depth, because msgspec ignores unknown fields."""
    hints = _hints(kind)
    if hints and isinstance(raw, dict):
        if differing := sorted(hints.keys() ^ raw.keys())[:SHOWN_FIELDS]:
            which = ", ".join(
                f"{'missing' if name in hints else 'unknown'} {shortened(repr(name))}" for name in differing
            )
            raise ValueError(f"{where}: {which}; expected the fields {', '.join(sorted(hints))}")
        for name, of in hints.items():
            _require_fields(raw[name], of, f"{where}.{name}")
    elif raw is not None:
        for inner in filter(is_dataclass, get_args(kind)):
            for part in _parts(raw, get_origin(kind), where):
                _require_fields(part, inner, where)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass by field name, or {} if `kind` is not a dataclass."""
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _parts(raw: Any, container: Any, where: str) -> Collection[Any]:
    """Return the items of a list or the values of an object. Return any other value as the only item of a list."""
    parts: Collection[Any] = [raw]
    if container is tuple and isinstance(raw, list):
        parts = raw
    elif container is dict and isinstance(raw, dict):
        parts = raw.values()
    if len(parts) > MAX_OBJECTS:
        raise ValueError(f"{where}: expected at most {MAX_OBJECTS} objects, got {len(parts)}")
    return parts


def _array(kind: Any, value: Any) -> npt.NDArray[np.float32]:
    """Convert nested lists to a float32 array; numbers that are too large for float32 become infinite."""
    if get_origin(kind) is not np.ndarray:
        raise TypeError(f"{kind} cannot be built from JSON")
    inside = [value]
    while inside:  # NumPy would parse strings, and allocate the size of the longest string for every number
        if not {type(part) for part in inside} <= {list, int, float}:
            raise ValueError("expected nested lists of numbers")
        inside = [part for each in inside if type(each) is list for part in each]
    try:
        with np.errstate(over="ignore"):
            return np.asarray(value, np.float32)
    except OverflowError as error:
        raise ValueError("expected numbers in the range of float32") from error
