"""What a person sees of a calibration: one bar over all its phases on a terminal, plain lines anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from mmguard.calibrate.progress import AT_THE_START, AUDIT, LEARNING, READING, Standing
from mmguard.cli import formatting as terminal
from mmguard.errors import MmguardError, UnwrittenBundleError
from mmguard.text.format import duration, percent

if TYPE_CHECKING:
    from mmguard.calibrate.learning.calibrator import Round

PLAIN_SECONDS, PLAIN_LINES = 10.0, 100
"""Seconds between two plain lines about one task, at least, and how many of them a calibration has, about."""

BAR = 10
"""Characters of the bar: on a narrow terminal the time and the task need the room."""

GO_ON = "to go on, run the same command with --resume"


class Watch:
    """What a calibration last said of itself, and what shows it.

    Args:
        show: called with how far it is, and with the last round in words where rounds are being run.
    """

    def __init__(self, show: Callable[[Standing, str], None]) -> None:
        self.standing, self.round = AT_THE_START, ""
        self._show, self._figures = show, ""

    def on_round(self, report: "Round") -> None:
        """Take note of a round; it is shown with what comes next."""
        self.round = f"round {report.number} of {report.rounds}"
        self._figures = f"round {report.number}/{report.rounds}: {describe(report)}"

    def on_progress(self, standing: Standing) -> None:
        """Show how far the calibration is."""
        self.standing = standing
        self._show(standing, self._figures if standing.phase == LEARNING else "")


def describe(report: "Round") -> str:
    """One round in words: both terms of the objective, λ and the agreement on D."""
    return (
        f"change {report.fit_loss:.3f}, penalty {report.penalty:.2f} × λ {report.margin_weight:.3g}, "
        f"agreement {percent(report.agreement)}"
    )


@contextmanager
def watched() -> Iterator[Watch]:
    """A watch that shows a bar with the remaining time on a terminal, and lines elsewhere."""
    if not terminal.console.is_terminal:
        yield Watch(_plain())
        return
    rest = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (TaskProgressColumn(), RemainingColumn(), BarColumn(BAR), rest)
    with Progress(*columns, console=terminal.console, transient=True, expand=True) as bar:
        task = bar.add_task(AT_THE_START.task, total=None)

        def show(standing: Standing, figures: str) -> None:
            if standing.remaining is not None:
                ends = time.monotonic() + standing.remaining
                bar.update(
                    task, description=_joined(standing.task, figures), total=1, completed=standing.share, ends=ends
                )

        yield Watch(show)


class RemainingColumn(ProgressColumn):
    """Counts down what was last said to remain, over all phases: rich's own estimate forgets what is 30 s ago."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Hours, minutes and seconds, or dashes before there is an estimate."""
        if (ends := task.fields.get("ends")) is None:
            return Text("-:--:--", style="progress.remaining")
        left = timedelta(seconds=max(0, round(ends - time.monotonic())))
        return Text(str(left), style="progress.remaining")


def _plain() -> Callable[[Standing, str], None]:
    """Shows each task as it begins, and again every 10 s, or less often where a calibration takes long."""
    task, due = "", 0.0

    def show(standing: Standing, figures: str) -> None:
        nonlocal task, due
        if standing.task != task or time.monotonic() >= due:
            left = "" if standing.remaining is None else f"about {duration(standing.remaining)} left"
            said = _joined(standing.task, figures if standing.task == task else "", left)
            terminal.console.print(said, markup=False, soft_wrap=True)
            whole = standing.elapsed + (standing.remaining or 0.0)
            task, due = standing.task, time.monotonic() + max(PLAIN_SECONDS, whole / PLAIN_LINES)

    return show


def _joined(*parts: str) -> str:
    """Those that are not empty, as one line."""
    return "; ".join(filter(None, parts))


@contextmanager
def say_how_to_go_on(watch: Watch, checkpoint: Path) -> Iterator[None]:
    """Where anything but a refusal ends a calibration early, says what is kept of it, and what goes on."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, MmguardError) and not isinstance(error, UnwrittenBundleError):
            raise
        what = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "stopped"
        running = watch.standing.phase == LEARNING and watch.round
        where = f" at {watch.round}" if running else f" while {watch.standing.task}"
        terminal.console.print(f"{what}{where}{_way_on(watch, checkpoint)}", markup=False, soft_wrap=True)
        raise


def _way_on(watch: Watch, checkpoint: Path) -> str:
    phase = watch.standing.phase
    if phase == READING or (phase == LEARNING and not watch.round):
        return "; nothing is lost, run the same command again"
    if not checkpoint.exists():  # the bundle is written already, or no checkpoint could be
        return ""
    if phase == LEARNING:
        return f"; {GO_ON}"
    kept = f"; all that was learned is kept: {GO_ON}"
    return f"{kept}, and with --no-audit to leave the audit out" if phase == AUDIT else kept
