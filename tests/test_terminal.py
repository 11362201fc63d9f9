"""What a person sees of a calibration: a bar that counts down, or lines."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mmguard import terminal
from mmguard.calibrate import Round
from mmguard.errors import InputError
from mmguard.terminal import round_progress, say_how_to_go_on


def report(number: int, remaining: float = 0.0) -> Round:
    return Round(number, 180, 0.5, 3.0, 0.1, 0.99, 10.0, remaining)


def screen(monkeypatch: pytest.MonkeyPatch, terminal_like: bool) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=file, force_terminal=terminal_like, width=120))
    return file


def test_the_bar_counts_down_what_the_rounds_say_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    file = screen(monkeypatch, True)
    with round_progress() as on_round:
        on_round(report(118, remaining=3725.4))  # the first that a resumed calibration runs
        first = file.getvalue()
        on_round(report(119, remaining=59.6))
    assert "-:--:--" in first, "and no error, before the number of rounds is known"
    assert "119/180" in file.getvalue()
    assert "0:01:00" in file.getvalue() or "0:00:59" in file.getvalue()


def test_lines_show_the_first_round_that_is_run_every_tenth_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    file = screen(monkeypatch, False)
    with round_progress() as on_round:
        for number in range(163, 181):
            on_round(report(number, remaining=180.0 - number))
    lines = file.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"round {number}/180" for number in (163, 170, 180)]
    assert lines[0].endswith("about 17 s remain")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "interrupted at round 17 of 180; to go on, run the same command with --resume\n"),
        (SystemExit(143), "interrupted at round 17 of 180; to go on, run the same command with --resume\n"),
        (MemoryError(), "stopped at round 17 of 180; to go on, run the same command with --resume\n"),
        (InputError("refused"), ""),
    ],
)
def test_what_ends_a_calibration_early_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, said: str
) -> None:
    file = screen(monkeypatch, False)

    def run() -> None:
        with say_how_to_go_on(lambda _: None, tmp_path) as on_round:
            on_round(report(17))
            raise error

    with pytest.raises(type(error)):
        run()
    assert file.getvalue() == said


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = screen(monkeypatch, False)

    def run() -> None:
        with say_how_to_go_on(lambda _: None, tmp_path / "none"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert file.getvalue() == ""
