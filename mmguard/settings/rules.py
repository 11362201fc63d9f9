"""Rules for the allowed values of settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LARGEST = 1e30
"""Largest allowed absolute value. It is far below the largest float32, so that no calculation overflows."""


@dataclass(frozen=True)
class Rule:
    """A condition on the value of one field.

    Attributes:
        expected: description of the allowed values; it follows "must be" in an error message.
        holds: function that takes a value of any type and returns whether the value meets the condition.
    """

    expected: str
    holds: Callable[[Any], bool]

    def or_none(self) -> "Rule":
        """Return this rule, extended to allow None too."""
        return Rule(f"{self.expected}, or None", lambda value: value is None or self.holds(value))


def whole(least: int) -> Rule:
    """Return the rule that a value must be a whole number of at least `least`.

    Args:
        least: the smallest allowed value.
    """
    return Rule(f"a whole number of at least {least}", lambda value: type(value) is int and value >= least)


def one_of(choices: Sequence[str]) -> Rule:
    """Return the rule that a value must be one of several names.

    Args:
        choices: the allowed names.
    """
    return Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def some_of(choices: Sequence[str]) -> Rule:
    """Return the rule that a value must be a tuple of one or more different names.

    Args:
        choices: the allowed names.
    """
    return Rule(
        f"a tuple of one or more different names from {', '.join(choices)}",
        lambda value: (
            isinstance(value, tuple)
            and len(value) > 0
            and all(each in choices and value.count(each) == 1 for each in value)
        ),
    )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


FLAG = Rule("True or False", lambda value: type(value) is bool)
POSITIVE = Rule("a finite number above 0", lambda value: _number(value) and value > 0)
NOT_NEGATIVE = Rule("a finite number of at least 0", lambda value: _number(value) and value >= 0)
SHARE = Rule("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
POSITIVE_SHARE = Rule("a number above 0 and at most 1", lambda value: _number(value) and 0 < value <= 1)
POWER = Rule("a number from 0 to 2", lambda value: _number(value) and 0 <= value <= 2)
