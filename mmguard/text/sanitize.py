"""Text of others, made safe to show."""

import unicodedata

HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories whose characters show nothing, or turn the text around them."""
SHOWN = "\ufffd"


def visible(text: str) -> str:
    """The text without characters that could hide or reverse what is written."""
    return "".join(SHOWN if unicodedata.category(sign) in HIDDEN else sign for sign in text)
