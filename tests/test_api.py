"""The public API, name by name: a change that breaks its users fails here, and is made on purpose or not at all.

Run `python -m tests.test_api` to write the snapshot anew.
"""

import inspect
from enum import EnumMeta
from pathlib import Path
from typing import Any

import mmguard

SNAPSHOT = Path(__file__).with_name("api.txt")


def signature_of(thing: Any) -> str:
    """The signature as text, without the addresses of defaults."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_shown(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


class Shown:
    """A default as it is written in the snapshot."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _shown(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return default
    return Shown(repr(default) if isinstance(default, (str, int, float, bool, tuple, type(None))) else "...")


def members_of(name: str, thing: Any) -> list[str]:
    """One line for each public method, property and field of a class."""
    if isinstance(thing, EnumMeta):
        return [f"{name}.{member.name} = {member.value!r}" for member in list[Any](thing)]
    lines = [f"{name}.{field}" for field in getattr(thing, "__dataclass_fields__", {})]
    for member in sorted(vars(thing)):
        value = inspect.getattr_static(thing, member)
        if member.startswith("_") or f"{name}.{member}" in lines:
            continue
        if isinstance(value, property):
            lines.append(f"{name}.{member}")
        elif callable(value) or isinstance(value, (classmethod, staticmethod)):
            lines.append(f"{name}.{member}{signature_of(getattr(thing, member))}")
    return lines


def api() -> str:
    """The public API as text."""
    lines = []
    for name in mmguard.__all__:
        thing = getattr(mmguard, name)
        if isinstance(thing, type):
            lines += [f"class {name}{signature_of(thing) if not isinstance(thing, EnumMeta) else ''}"]
            lines += members_of(name, thing)
        elif callable(thing):
            lines.append(f"{name}{signature_of(thing)}")
        elif name == "errors":
            lines += [f"errors.{error}" for error in sorted(vars(thing)) if error.endswith("Error")]
        else:
            lines.append(name)
    return "\n".join(lines) + "\n"


def test_the_public_api_is_that_of_the_snapshot() -> None:
    assert api().splitlines() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    SNAPSHOT.write_text(api(), encoding="utf-8")
