"""What a person sees of a calibration: a bar that counts down over all phases, or lines; and how to go on."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mmguard.calibrate.learning.calibrator import Round
from mmguard.calibrate.progress import AT_THE_START, Progress
from mmguard.cli import console as terminal
from mmguard.cli.progress import Watch, announced_resume, watched
from mmguard.errors import InputError, UnwrittenBundleError

AUDIT = Progress("audit", "searching margins", 0.8, 60.0, 15.0)
WRITING = Progress("writing", "writing the bundle", 1.0, 75.0, 0.2)


def learning(share: float, remaining: float) -> Progress:
    return Progress("learning", "learning", share, 0.0, remaining)


def report(number: int) -> Round:
    return Round(number, 180, 0.5, 3.0, 0.1, 0.9996, 10.0, 0.0)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., io.StringIO]:
    def make(terminal_like: bool, width: int = 160) -> io.StringIO:
        file = io.StringIO()
        monkeypatch.setattr(terminal, "console", Console(file=file, force_terminal=terminal_like, width=width))
        return file

    return make


def test_the_bar_counts_down_what_remains_of_all_phases(screen: Callable[..., io.StringIO]) -> None:
    file = screen(True)
    with watched() as seen:
        seen.on_progress(AT_THE_START)
        seen.on_round(report(119))
        seen.on_progress(learning(0.5, 3725.4))
    shown = file.getvalue()
    assert "-:--:--" in shown, "and no error, before there is an estimate"
    assert AT_THE_START.task in shown
    assert "round 119/180: change 0.500, penalty 3.00 × λ 0.1, agreement > 99.9 %" in shown
    assert "1:02:05" in shown or "1:02:04" in shown
    assert "50%" in shown
    with watched() as seen:
        seen.on_round(report(180))
        seen.on_progress(AUDIT)
    shown = file.getvalue()
    assert "searching margins" in shown
    assert "0:00:15" in shown or "0:00:14" in shown
    assert "round 180" not in shown, "no round is being run"


def test_a_narrow_terminal_still_shows_the_time(screen: Callable[..., io.StringIO]) -> None:
    file = screen(True, 45)
    with watched() as seen:
        seen.on_round(report(119))
        seen.on_progress(learning(0.5, 3725.4))
    assert re.search("1:02:0[45].* learning; round 119", file.getvalue())


def test_lines_show_each_task_as_it_begins_and_then_now_and_again(
    screen: Callable[..., io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, now = screen(False), [0.0]
    monkeypatch.setattr("mmguard.cli.progress.time.monotonic", lambda: now[0])
    with watched() as seen:
        seen.on_progress(AT_THE_START)
        for number in range(1, 31):
            now[0] += 1.0
            seen.on_round(report(number))
            seen.on_progress(learning(number / 60, 60.0 - number))
        seen.on_progress(AUDIT)
        seen.on_progress(WRITING)
    lines = file.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        AT_THE_START.task,
        "learning; about 59 s left",
        "learning; round 11/180",
        "learning; round 21/180",
        "searching margins; about 15 s left",
        "writing the bundle; about 1 s left",
    ]
    assert lines[3].endswith("; about 39 s left")


def test_a_long_calibration_writes_no_flood_of_lines(
    screen: Callable[..., io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, now = screen(False), [0.0]
    monkeypatch.setattr("mmguard.cli.progress.time.monotonic", lambda: now[0])
    with watched() as seen:
        for second in range(10_000):
            now[0] = float(second)
            seen.on_progress(Progress("audit", "searching", second / 10_000, now[0], 10_000 - now[0]))
    assert 80 <= len(file.getvalue().splitlines()) <= 120


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), MemoryError()])
@pytest.mark.parametrize(
    ("standing", "rounds", "said"),
    [
        (AT_THE_START, 0, f" while {AT_THE_START.task}; nothing is lost: run the same command again"),
        (learning(0, 9), 0, " while learning; nothing is lost: run the same command again"),
        (learning(0, 9), 17, " at round 17 of 180; run the same command with --resume to continue"),
        (
            AUDIT,
            180,
            " while searching margins; everything learned so far is saved: run the same command with --resume to "
            "continue, and with --no-audit to skip the audit",
        ),
        (
            WRITING,
            180,
            " while writing the bundle; everything learned so far is saved: run the same command with --resume to "
            "continue",
        ),
    ],
)
def test_what_ends_a_calibration_early_says_what_is_kept_and_how_to_go_on(
    screen: Callable[..., io.StringIO],
    tmp_path: Path,
    error: BaseException,
    standing: Progress,
    rounds: int,
    said: str,
) -> None:
    file, seen = screen(False), Watch(lambda *_: None)

    def run() -> None:
        with announced_resume(seen, tmp_path):  # which is there, as a checkpoint would be
            if rounds:
                seen.on_round(report(rounds))
            seen.on_progress(standing)
            raise error

    with pytest.raises(type(error)):
        run()
    assert file.getvalue() == ("stopped" if isinstance(error, MemoryError) else "interrupted") + said + "\n"


def test_a_refusal_says_nothing_of_going_on(screen: Callable[..., io.StringIO], tmp_path: Path) -> None:
    file, seen = screen(False), Watch(lambda *_: None)

    def run() -> None:
        with announced_resume(seen, tmp_path):
            seen.on_progress(AUDIT)
            raise InputError("refused")

    with pytest.raises(InputError):
        run()
    assert file.getvalue() == ""


def test_a_bundle_that_cannot_be_written_says_how_to_go_on(screen: Callable[..., io.StringIO], tmp_path: Path) -> None:
    file, seen = screen(False), Watch(lambda *_: None)

    def run() -> None:
        with announced_resume(seen, tmp_path):
            seen.on_progress(WRITING)
            raise UnwrittenBundleError("no space left")

    with pytest.raises(UnwrittenBundleError):
        run()
    assert file.getvalue().startswith("stopped while writing the bundle; everything learned so far is saved: run ")


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(
    screen: Callable[..., io.StringIO], tmp_path: Path
) -> None:
    file, seen = screen(False), Watch(lambda *_: None)

    def run() -> None:
        with announced_resume(seen, tmp_path / "none"):
            seen.on_progress(WRITING)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert file.getvalue() == "interrupted while writing the bundle\n"
