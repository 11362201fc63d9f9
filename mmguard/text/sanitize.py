"""Make untrusted text, such as file names and labels, safe to print."""

import unicodedata
from pathlib import Path

HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories of control, formatting and other invisible characters, which can hide or reorder text."""
REPLACEMENT = "\ufffd"


def sanitize(text: str) -> str:
    r"""Replace every character that could hide or reorder other text.

    Args:
        text: text from a file, a request or another untrusted source.

    Returns:
        Text of the same length, with U+FFFD in place of each control, formatting or other invisible character.

    Example:
        >>> sanitize("dog")
        'dog'
        >>> sanitize("a\x1b[2Jb") == "a\ufffd[2Jb"
        True
    """
    return "".join(REPLACEMENT if unicodedata.category(sign) in HIDDEN else sign for sign in text)


def shown(path: Path) -> str:
    """Return a path as text that is safe to put in a message.

    Args:
        path: path whose name may contain any character.

    Returns:
        The sanitised path.
    """
    return sanitize(str(path))
