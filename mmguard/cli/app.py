"""The command itself: its help, its exit codes, and the options that several commands share."""

from typing import Literal

from cyclopts import App, Parameter

from mmguard import __version__

DONE, FAILED, WRONG_USE, FOUND, NO_VERDICT = 0, 1, 2, 3, 4

Device = Literal["cpu", "cuda"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

app = App(
    name="mmguard",
    version=__version__,
    help="Guard a deployed classifier against backdoor triggers.",
    help_epilogue="Exit codes: 0 done, 1 failed, 2 wrong use, 3 triggers or a backdoor found, 4 audit without verdict, "
    "130 and 143 interrupted.",
    result_action="return_value",
    default_parameter=Parameter(negative=()),
)
