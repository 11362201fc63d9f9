"""Numbers and names as the page writes them."""

from markupsafe import Markup

from mmguard.visible import visible


def shown(value: object) -> object:
    """What the page writes for a value: text of others visibly, all else as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


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
