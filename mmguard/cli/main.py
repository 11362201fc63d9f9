"""The entry point of the `mmguard` command."""

import logging
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from cyclopts import CycloptsError

from mmguard.cli import audit, bench, calibrate, demo, inspect, report, scan, serve, verify
from mmguard.cli.app import DONE, FAILED, WRONG_USE, app
from mmguard.cli.console import ConsoleHandler, console
from mmguard.errors import MmguardError, OptionError

__all__ = ["audit", "bench", "calibrate", "demo", "inspect", "main", "report", "scan", "serve", "verify"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its exit code.

    Args:
        arguments: command-line arguments without the program's name; None uses the arguments of the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # the encoding of a pipe may lack characters such as ≤
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are removed
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()], force=True)
    try:
        code = app(arguments, exit_on_error=False, print_error=True, error_console=console)
    except CycloptsError:
        sys.exit(WRONG_USE)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except (MmguardError, OSError) as error:
        console.print(f"mmguard: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(WRONG_USE if isinstance(error, OptionError) else FAILED)
    sys.exit(code if isinstance(code, int) else DONE)
