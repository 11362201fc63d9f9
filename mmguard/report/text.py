"""Numbers and names as the page writes them."""

from markupsafe import Markup

from mmguard.text import format as words
from mmguard.text.format import number
from mmguard.text.sanitize import visible

__all__ = ["count", "level", "number", "p_value", "percent", "shown", "thousands"]

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def shown(value: object) -> object:
    """What the page writes for a value: text of others visibly, all else as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(share: float) -> str:
    """A share in [0, 1] that no line's end parts."""
    return words.percent(share).replace(" ", "\u00a0")


def level(theta: float) -> str:
    """A level of a test in per cent, all its digits."""
    return f"{100 * theta:.6g}\u00a0%"


def p_value(p: float) -> str:
    """A p-value with two digits, small ones by a power of ten."""
    if p < 1e-6:
        return "p\u00a0<\u00a010⁻⁶"
    if p >= 0.001:
        return f"p\u00a0=\u00a0{p:.2g}"
    digits, power = f"{p:.1e}".split("e-")
    return f"p\u00a0=\u00a0{digits}\u00a0×\u00a010⁻{str(int(power)).translate(SUPERSCRIPTS)}"


def thousands(n: int) -> str:
    """A whole number, with thin gaps between thousands."""
    return f"{n:,}".replace(",", "\u202f")


def count(n: int, noun: str) -> str:
    """A number of things."""
    plural = noun if n == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{thousands(n)}\u00a0{plural}"
