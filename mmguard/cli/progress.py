"""Show the progress of a calibration: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Column
from rich.text import Text

from mmguard.calibrate.progress import AT_THE_START, AUDIT, LEARNING, READING, Progress
from mmguard.cli import console as terminal
from mmguard.errors import MmguardError, UnwrittenBundleError
from mmguard.text.format import duration, percent

if TYPE_CHECKING:
    from mmguard.calibrate.learning.calibrator import Round

PLAIN_SECONDS = 10.0
"""Minimum number of seconds between two plain lines about the same task."""
PLAIN_LINES = 100
"""Approximate maximum number of plain lines printed during one calibration."""

BAR = 10
"""Width of the bar in characters, small enough to leave room for the time and the task on a narrow terminal."""

RESUME = "run the same command with --resume to continue"


class Watch:
    """Stores the latest progress of a calibration and shows it.

    Args:
        show: function to call with the progress and the figures of the last round. The figures are an empty string
            unless bounds are being learned.
    """

    def __init__(self, show: Callable[[Progress, str], None]) -> None:
        self.standing, self.round = AT_THE_START, ""
        self._show, self._figures = show, ""

    def on_round(self, report: "Round") -> None:
        """Store the figures of a round, to be shown with the next progress update.

        Args:
            report: the round.
        """
        self.round = f"round {report.number} of {report.rounds}"
        self._figures = f"round {report.number}/{report.rounds}: {describe(report)}"

    def on_progress(self, standing: Progress) -> None:
        """Store and show the latest progress.

        Args:
            standing: the latest progress.
        """
        self.standing = standing
        self._show(standing, self._figures if standing.phase == LEARNING else "")


def describe(report: "Round") -> str:
    """Return the figures of a round as text: both terms of the objective, λ, and the agreement of the networks.

    Args:
        report: the round.
    """
    return (
        f"change {report.fit_loss:.3f}, penalty {report.penalty:.2f} × λ {report.margin_weight:.3g}, "
        f"agreement {percent(report.agreement)}"
    )


@contextmanager
def watched() -> Iterator[Watch]:
    """Provide a watch. On a terminal, it shows a bar with the remaining time; elsewhere, it prints plain lines.

    Yields:
        The watch.
    """
    if not terminal.console.is_terminal:
        yield Watch(_plain())
        return
    rest = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (TaskProgressColumn(), RemainingColumn(), BarColumn(BAR), rest)
    with ProgressBar(*columns, console=terminal.console, transient=True, expand=True) as bar:
        task = bar.add_task(AT_THE_START.task, total=None)

        def show(standing: Progress, figures: str) -> None:
            if standing.remaining is not None:
                ends = time.monotonic() + standing.remaining
                bar.update(
                    task, description=_joined(standing.task, figures), total=1, completed=standing.share, ends=ends
                )

        yield Watch(show)


class RemainingColumn(ProgressColumn):
    """Counts down mmguard's estimate of the remaining time, because Rich considers only the last 30 seconds."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Return the remaining hours, minutes and seconds, or dashes if there is no estimate yet.

        Args:
            task: the bar's task.
        """
        if (ends := task.fields.get("ends")) is None:
            return Text("-:--:--", style="progress.remaining")
        left = timedelta(seconds=max(0, round(ends - time.monotonic())))
        return Text(str(left), style="progress.remaining")


def _plain() -> Callable[[Progress, str], None]:
    """Return a function that prints progress at the start of each task and every 10 s, or less often in a long run."""
    task, due = "", 0.0

    def show(standing: Progress, figures: str) -> None:
        nonlocal task, due
        if standing.task != task or time.monotonic() >= due:
            left = "" if standing.remaining is None else f"about {duration(standing.remaining)} left"
            said = _joined(standing.task, figures if standing.task == task else "", left)
            terminal.console.print(said, markup=False, soft_wrap=True)
            whole = standing.elapsed + (standing.remaining or 0.0)
            task, due = standing.task, time.monotonic() + max(PLAIN_SECONDS, whole / PLAIN_LINES)

    return show


def _joined(*parts: str) -> str:
    """Join the parts that are not empty into one line."""
    return "; ".join(filter(None, parts))


@contextmanager
def announced_resume(watch: Watch, checkpoint: Path) -> Iterator[None]:
    """If a calibration ends early, tell the user how to resume it, unless mmguard rejected the model or the inputs.

    Args:
        watch: the calibration's progress.
        checkpoint: path of the calibration's checkpoint.

    Yields:
        None.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, MmguardError) and not isinstance(error, UnwrittenBundleError):
            raise
        what = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "stopped"
        running = watch.standing.phase == LEARNING and watch.round
        where = f" at {watch.round}" if running else f" while {watch.standing.task}"
        terminal.console.print(f"{what}{where}{_how_to_resume(watch, checkpoint)}", markup=False, soft_wrap=True)
        raise


def _how_to_resume(watch: Watch, checkpoint: Path) -> str:
    phase = watch.standing.phase
    if phase == READING or (phase == LEARNING and not watch.round):
        return "; nothing is lost: run the same command again"
    if not checkpoint.exists():  # the bundle is complete, or the checkpoint could not be written
        return ""
    if phase == LEARNING:
        return f"; {RESUME}"
    kept = f"; everything learned so far is saved: {RESUME}"
    return f"{kept}, and with --no-audit to skip the audit" if phase == AUDIT else kept
