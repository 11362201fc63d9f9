"""JSON of others as dataclasses: every field of its type, none missing or unknown, nothing larger than it may be."""

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

T = TypeVar("T")

MAX_VALUES = 2 * 2**20
"""JSON values in one text: each takes up to 64 bytes once it is read."""
SHOWN = 300
"""Characters of a message that may quote the text."""


def read_json(text: bytes) -> Any:
    """Parse JSON. It must be UTF-8, without NaN, infinities, lone surrogates or more than two million values.

    Raises:
        ValueError: it is not that.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES} values")
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
    if get_origin(kind) is dict and isinstance(raw, dict):
        parts = [(value, get_args(kind)[1], f"{where}, {shortened(repr(key))}") for key, value in raw.items()]
    elif get_origin(kind) is tuple and isinstance(raw, list) and is_dataclass(get_args(kind)[0]):
        parts = [(value, get_args(kind)[0], f"{where}[{i}]") for i, value in enumerate(raw)]
    elif is_dataclass(kind) and isinstance(raw, dict):
        names = {field.name for field in fields(kind)}
        if differing := sorted(names ^ set(raw)):
            which = ", ".join(
                f"{'no' if name in names else 'unknown'} {shortened(repr(name))}" for name in differing[:5]
            )
            raise ValueError(f"{where} has the fields {', '.join(sorted(names))}; found {which}")
        parts = [(raw[name], of, f"{where}.{name}") for name, of in get_type_hints(kind).items()]
    else:
        parts = [(raw, each, where) for each in get_args(kind) if is_dataclass(each) and raw is not None]
    for part in parts:
        _require_fields(*part)


def _array(kind: Any, value: Any) -> npt.NDArray[np.float32]:
    """Nested lists as float32."""
    if get_origin(kind) is not np.ndarray:
        raise TypeError(f"{kind} has no JSON form")
    found = np.asarray(value)  # ValueError where lists are ragged or nested too deeply
    if found.dtype.kind not in "iuf":
        raise ValueError("expected nested lists of numbers")
    with np.errstate(over="ignore"):  # an infinity is refused by who knows the field
        return found.astype(np.float32)
