"""Check individual fields of an untrusted configuration file."""

import math

from mmguard.errors import OptionError


def length(field: str, value: object) -> int:
    """Check that the value of a field is a length in pixels.

    Args:
        field: name of the field, for the error message.
        value: value of the field.

    Returns:
        The value, from 1 to 65535.

    Raises:
        OptionError: the value is not a positive whole number, or is too large.

    Example:
        >>> length("size", 224)
        224
    """
    if type(value) is not int or not 0 < value < 2**16:
        raise OptionError(f"{field} must be a positive number of pixels, at most 65535, got {value!r}")
    return value


def number(field: str, value: object) -> float:
    """Check that the value of a field is a finite number.

    Args:
        field: name of the field, for the error message.
        value: value of the field.

    Returns:
        The value as a float.

    Raises:
        OptionError: the value is not a number, or is not finite.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise OptionError(f"{field} must be a finite number, got {value!r}")
    return float(value)


def share(field: str, value: object) -> float:
    """Check that the value of a field is above 0 and at most 1.

    Args:
        field: name of the field, for the error message.
        value: value of the field.

    Returns:
        The value as a float, above 0 and at most 1.

    Raises:
        OptionError: the value is not a number above 0 and at most 1.
    """
    if not 0 < (found := number(field, value)) <= 1:
        raise OptionError(f"{field} must be above 0 and at most 1, got {value!r}")
    return found


def numbers(field: str, value: object) -> tuple[float, ...]:
    """Check that the value of a field is one number, or one number per colour channel.

    Args:
        field: name of the field, for the error message.
        value: a number, or a list of one or three numbers.

    Returns:
        One or three finite numbers.

    Raises:
        OptionError: the value does not consist of one or three finite numbers.

    Example:
        >>> numbers("image_mean", 0.5)
        (0.5,)
    """
    listed = value if isinstance(value, (list, tuple)) else [value]
    if len(listed) not in (1, 3):
        raise OptionError(f"{field} must be one number or three numbers, got {value!r}")
    return tuple(number(field, each) for each in listed)


def flag(field: str, value: object) -> bool:
    """Check that the value of a field is a boolean.

    Args:
        field: name of the field, for the error message.
        value: value of the field.

    Returns:
        The value.

    Raises:
        OptionError: the value is neither true nor false.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{field} must be true or false, got {value!r}")
    return value
