"""Prints the demo's output to the terminal."""

import shlex
from collections.abc import Sequence

from rich.console import Console

console = Console(highlight=False)


def print_command(words: Sequence[str], background: bool = False) -> None:
    """Print a shell command as a user would type it.

    Args:
        words: the command and its arguments.
        background: whether to append `&`.
    """
    line = shlex.join(words) + (" &" if background else "")
    console.print(f"\n$ {line}", style="bold", markup=False, soft_wrap=True)


def print_line(text: str) -> None:
    """Print text unchanged, without interpreting markup or wrapping lines.

    Args:
        text: the text.
    """
    console.print(text, markup=False, soft_wrap=True)
