"""The `mmguard` command-line application, its exit codes and the values of --device."""

from typing import Literal

from cyclopts import App, Parameter

from mmguard import __version__

DONE = 0
FAILED = 1
WRONG_USE = 2
FOUND = 3
NO_VERDICT = 4

Device = Literal["cpu", "cuda"]

app = App(
    name="mmguard",
    version=__version__,
    help="Guard a deployed classifier against backdoor triggers.",
    help_epilogue="Exit codes: 0 success, 1 failure, 2 incorrect usage, 3 triggers or a backdoor found, 4 audit "
    "without a verdict, 130 or 143 interrupted.",
    result_action="return_value",
    default_parameter=Parameter(negative=(), consume_multiple=True),
)
