"""Formatting of the numbers and names on the page."""

from markupsafe import Markup

from mmguard.text import format as plain
from mmguard.text.format import number
from mmguard.text.sanitize import sanitize

__all__ = ["count", "level", "number", "p_value", "percent", "sanitised", "thousands"]

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def sanitised(value: object) -> object:
    r"""Replace the characters of a string that could hide or reorder text on the page.

    Args:
        value: any value that a template prints.

    Returns:
        The sanitised text. Trusted markup and values of other types are returned unchanged.

    Example:
        >>> sanitised("dog\u202egod")
        'dog\ufffdgod'
        >>> sanitised(3)
        3
    """
    return sanitize(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(share: float) -> str:
    r"""Format a share as a percentage that is never broken across lines.

    Args:
        share: the share, in [0, 1].

    Returns:
        The percentage, with a no-break space before the percent sign.

    Example:
        >>> percent(0.875).replace("\u00a0", " ")
        '87.5 %'
    """
    return plain.percent(share).replace(" ", "\u00a0")


def level(theta: float) -> str:
    r"""Format the level of a test as a percentage, with up to six significant digits.

    Args:
        theta: the level, in (0, 1].

    Returns:
        The percentage, with a no-break space before the percent sign.

    Example:
        >>> level(0.00123).replace("\u00a0", " ")
        '0.123 %'
    """
    return f"{100 * theta:.6g}\u00a0%"


def p_value(p: float) -> str:
    r"""Format a p-value with two significant digits; use a power of ten below 0.001, and `p < 10⁻⁶` below 10⁻⁶.

    Args:
        p: the p-value, in [0, 1].

    Returns:
        Text such as `p = 0.031`, with no-break spaces.

    Example:
        >>> p_value(0.031).replace("\u00a0", " ")
        'p = 0.031'
        >>> p_value(0.00012).replace("\u00a0", " ")
        'p = 1.2 × 10⁻⁴'
    """
    if p < 1e-6:
        return "p\u00a0<\u00a010⁻⁶"
    if p >= 0.001:
        return f"p\u00a0=\u00a0{p:.2g}"
    digits, power = f"{p:.1e}".split("e-")
    return f"p\u00a0=\u00a0{digits}\u00a0×\u00a010⁻{str(int(power)).translate(SUPERSCRIPTS)}"


def thousands(n: int) -> str:
    r"""Format a whole number with a narrow no-break space between groups of three digits.

    Args:
        n: the number.

    Returns:
        The digits in groups of three, separated by U+202F.

    Example:
        >>> thousands(100000).replace("\u202f", " ")
        '100 000'
    """
    return f"{n:,}".replace(",", "\u202f")


def count(n: int, noun: str) -> str:
    r"""Format a count and its noun.

    Args:
        n: the count.
        noun: the noun in the singular.

    Returns:
        The number and the noun, in the plural unless `n` is 1, separated by a no-break space.

    Example:
        >>> count(1, "input").replace("\u00a0", " "), count(10, "class").replace("\u00a0", " ")
        ('1 input', '10 classes')
    """
    plural = noun if n == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{thousands(n)}\u00a0{plural}"
