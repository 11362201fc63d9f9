"""Numbers and lists as mmguard writes them, in messages, on a terminal and on the report's page."""

from collections.abc import Iterable

NAMED = 5
"""Names that a message lists."""
MINUTE, HOUR = 60, 3600


def percent(share: float) -> str:
    """A share in [0, 1]: with one decimal, below 10 % with two; never rounded to nothing or to all."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    if share < 0.00005:
        return "< 0.01 %"
    if share >= 0.9995:
        return "> 99.9 %"
    return f"{100 * share:.{1 if share >= 0.1 else 2}f} %"


def number(value: float) -> str:
    """A margin or a parameter, with a real minus sign: one decimal, or two digits below 1."""
    text = f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """About so long: seconds, then minutes with tens of seconds, then hours with minutes."""
    if seconds < 1:
        return "1 s"
    if seconds < MINUTE - 0.5:
        return f"{seconds:.0f} s"
    if seconds < HOUR - 5:
        minutes, tens = divmod(round(seconds / 10), 6)
        return f"{minutes} min {10 * tens} s" if tens else f"{minutes} min"
    hours, minutes = divmod(round(seconds / MINUTE), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def some(names: Iterable[object], most: int = NAMED) -> str:
    """The first names, and how many more there are."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
