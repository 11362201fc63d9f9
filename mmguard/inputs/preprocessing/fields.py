"""Fields of a configuration that someone else wrote, checked before anything is made of them."""

import math

from mmguard.errors import OptionError


def length(field: str, value: object) -> int:
    """A positive number of pixels.

    Raises:
        OptionError: the value is not one.
    """
    if type(value) is not int or not 0 < value < 2**16:
        raise OptionError(f"{field} must be a positive number of pixels, got {value!r}")
    return value


def number(field: str, value: object) -> float:
    """A finite number.

    Raises:
        OptionError: the value is not one.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise OptionError(f"{field} must be a number, got {value!r}")
    return float(value)


def share(field: str, value: object) -> float:
    """A number above 0 and at most 1.

    Raises:
        OptionError: the value is not one.
    """
    if not 0 < (found := number(field, value)) <= 1:
        raise OptionError(f"{field} must be above 0 and at most 1, got {value!r}")
    return found


def numbers(field: str, value: object) -> tuple[float, ...]:
    """One finite number, or one a channel: one or three.

    Raises:
        OptionError: the value is neither.
    """
    listed = value if isinstance(value, (list, tuple)) else [value]
    if len(listed) not in (1, 3):
        raise OptionError(f"{field} must be one number or three, got {value!r}")
    return tuple(number(field, each) for each in listed)


def flag(field: str, value: object) -> bool:
    """True or false.

    Raises:
        OptionError: the value is neither.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{field} must be true or false, got {value!r}")
    return value
