"""JSON of others as dataclasses: every field of its type, none missing or unknown, nothing larger than it may be."""

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

T = TypeVar("T")

MAX_VALUES = 2**20
"""JSON values and keys in one text: each takes some 100 bytes once it is read."""
MAX_CONTAINERS = 2**16
"""Lists and objects in one text: Python's garbage collector goes through all of them again and again."""
MAX_OBJECTS = 10_000
"""Objects in one list, or in one object."""
SHOWN, SHOWN_FIELDS = 300, 5
"""Characters of a message that may quote the text, and fields that it names."""


def read_json(text: bytes) -> Any:
    """Parse JSON. It must be UTF-8, without NaN, infinities, lone surrogates or more values than a manifest needs.

    Raises:
        ValueError: it is not that.
    """
    containers = text.count(b"[") + text.count(b"{")
    if containers > MAX_CONTAINERS or containers + text.count(b",") + text.count(b":") > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES} values and keys, or {MAX_CONTAINERS} lists and objects")
    try:
        return msgspec.json.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode(raw: Any, kind: type[T]) -> T:
    """Make a dataclass of what JSON gave.

    Scalars must be of their field's own type, but a whole number can be a float. Constraints on a type are
    `msgspec.Meta`. A field that is an array takes nested lists of numbers.

    Raises:
        ValueError: a field is missing, unknown, of another type or out of its range; the message says where.
    """
    _require_fields(raw, kind, kind.__name__)
    try:
        return msgspec.convert(raw, kind, dec_hook=_array)
    except (ValueError, RecursionError) as error:
        raise ValueError(shortened(error)) from error


def shortened(error: object) -> str:
    """A message without the rest of a text that it quotes at length."""
    text = str(error)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


def _require_fields(raw: Any, kind: Any, where: str) -> None:
    """Refuse missing and unknown fields of dataclasses at any depth: msgspec passes over those that are unknown."""
    hints = _hints(kind)
    if hints and isinstance(raw, dict):
        if differing := sorted(hints.keys() ^ raw.keys())[:SHOWN_FIELDS]:
            which = ", ".join(f"{'no' if name in hints else 'unknown'} {shortened(repr(name))}" for name in differing)
            raise ValueError(f"{where} has the fields {', '.join(sorted(hints))}; found {which}")
        for name, of in hints.items():
            _require_fields(raw[name], of, f"{where}.{name}")
    elif raw is not None:
        for inner in filter(is_dataclass, get_args(kind)):
            for part in _parts(raw, get_origin(kind), where):
                _require_fields(part, inner, where)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields by name; none of another type."""
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _parts(raw: Any, container: Any, where: str) -> Collection[Any]:
    """What a list or an object holds; what is neither, itself."""
    parts: Collection[Any] = [raw]
    if container is tuple and isinstance(raw, list):
        parts = raw
    elif container is dict and isinstance(raw, dict):
        parts = raw.values()
    if len(parts) > MAX_OBJECTS:
        raise ValueError(f"{where} holds {len(parts)} objects, at most {MAX_OBJECTS} are taken")
    return parts


def _array(kind: Any, value: Any) -> npt.NDArray[np.float32]:
    """Nested lists as float32. What is too large for it becomes an infinity."""
    if get_origin(kind) is not np.ndarray:
        raise TypeError(f"{kind} has no JSON form")
    inside = [value]
    while inside:  # NumPy would parse texts, and make room for the longest as often as there are numbers
        if not {type(part) for part in inside} <= {list, int, float}:
            raise ValueError("expected nested lists of numbers")
        inside = [part for each in inside if type(each) is list for part in each]
    try:
        with np.errstate(over="ignore"):
            return np.asarray(value, np.float32)
    except OverflowError as error:
        raise ValueError("expected numbers that float32 holds") from error
