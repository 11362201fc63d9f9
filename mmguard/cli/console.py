"""The console that shows messages, log records and progress, on standard error."""

import logging
from collections.abc import Iterable

from rich.console import Console

from mmguard.text.sanitize import sanitize

console = Console(stderr=True, highlight=False)


class ConsoleHandler(logging.Handler):
    """Prints log records above the progress bar: mmguard's own records, and warnings from other libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record on one line.

        Args:
            record: the log record.
        """
        if record.name.startswith("mmguard") or record.levelno >= logging.WARNING:
            console.print(self.format(record), markup=False, soft_wrap=True)


def safe_lines(parts: Iterable[str]) -> str:
    """Join lines and sanitise them, so that no name from a model or a file can move the cursor or hide text.

    Args:
        parts: the lines.

    Returns:
        The text, without a final newline.
    """
    return "\n".join(map(sanitize, parts))
