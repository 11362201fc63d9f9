"""Numbers and names as the page writes them."""

import unicodedata

from markupsafe import Markup

HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories whose characters show nothing, or turn the text around them."""
SHOWN = "�"


def visible(value: object) -> object:
    """Text of others without characters that could hide or reverse what is written; all else as it is."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(SHOWN if unicodedata.category(sign) in HIDDEN else sign for sign in value)


def percent(share: float) -> str:
    """A share in [0, 1]: with one decimal, below 10 % with two."""
    return (
        f"{share:.1%}".replace("%", "\u00a0%") if share >= 0.1 or share == 0 else f"{share:.2%}".replace("%", "\u00a0%")
    )


def level(theta: float) -> str:
    """A level of a test in per cent, all its digits."""
    return f"{100 * theta:.6g}\u00a0%"


def number(value: float) -> str:
    """A margin or a parameter, with a real minus sign."""
    text = f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
    return text.replace("-", "−")


def p_value(p: float) -> str:
    """A p-value with two digits."""
    if p < 1e-6:
        return "p\u00a0<\u00a010⁻⁶"
    return f"p\u00a0=\u00a0{p:.2g}"


def count(n: int, noun: str) -> str:
    """A number of things, with thin gaps between thousands."""
    plural = noun if n == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{n:,}\u00a0{plural}".replace(",", "\u202f")
