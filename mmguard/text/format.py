"""Format numbers, durations and lists for messages, the terminal and the report page."""

from collections.abc import Iterable

NAMED = 5
"""Default maximum number of names to list in a message."""
MINUTE, HOUR = 60, 3600


def percent(share: float) -> str:
    """Format a share as a percentage, without ever rounding a share between 0 and 1 to 0 % or 100 %.

    Shares of at least 10 % have one decimal place; smaller shares have two.

    Args:
        share: fraction in [0, 1].

    Returns:
        The percentage, such as "1.23 %" or "> 99.9 %".

    Example:
        >>> percent(0.0123), percent(0.5), percent(1.0)
        ('1.23 %', '50.0 %', '100 %')
        >>> percent(1e-9), percent(0.99999)
        ('< 0.01 %', '> 99.9 %')
    """
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    if share < 0.00005:
        return "< 0.01 %"
    if share >= 0.9995:
        return "> 99.9 %"
    return f"{100 * share:.{1 if share >= 0.1 else 2}f} %"


def number(value: float) -> str:
    """Format a number with one decimal place, or with two significant digits if its magnitude is below 1.

    Args:
        value: finite number, such as a margin in logits or a parameter of the null distribution.

    Returns:
        The number, with a typographic minus sign (U+2212) if it is negative.

    Example:
        >>> number(95.44), number(0.1123), number(-1.9)
        ('95.4', '0.11', '−1.9')
    """
    text = f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """Format a duration. It is rounded to 1 s below a minute, to 10 s below an hour, and to 1 min otherwise.

    Args:
        seconds: duration, at least 0; a duration below one second is formatted as one second.

    Returns:
        The duration, such as "59 s", "1 min 40 s" or "2 h".

    Example:
        >>> duration(0.4), duration(95), duration(3660)
        ('1 s', '1 min 40 s', '1 h 1 min')
    """
    if seconds < 1:
        return "1 s"
    if seconds < MINUTE - 0.5:
        return f"{seconds:.0f} s"
    if seconds < HOUR - 5:
        minutes, tens = divmod(round(seconds / 10), 6)
        return f"{minutes} min {10 * tens} s" if tens else f"{minutes} min"
    hours, minutes = divmod(round(seconds / MINUTE), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def first_few(names: Iterable[object], most: int = NAMED) -> str:
    """List the first few names, followed by the number of remaining names.

    Args:
        names: objects to list, each converted with `str`.
        most: maximum number of names to list.

    Returns:
        The names, separated by commas; an empty string if there are no names.

    Example:
        >>> first_few(["cat", "dog"])
        'cat, dog'
        >>> first_few(range(1000), 2)
        '0, 1 and 998 more'
    """
    shown = [str(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
