"""A calibration that is interrupted, killed or refused, and goes on: the bytes are those of one that never stopped."""

import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from mmguard.bundle.file_names import PROVENANCE
from mmguard.calibrate.checkpoint import checkpoint
from mmguard.calibrate.learning.calibrator import Round
from mmguard.calibrate.progress import Progress
from mmguard.errors import CheckpointError, GraphMismatchError, UnwrittenBundleError
from mmguard.files import atomic as staging
from tests.networks import write_clean, write_tiny
from tests.quick import QUICK, QUICK_MMOM, calibrate, files

CHECKPOINT = ".out.mmguard.checkpoint"
SHORT = replace(QUICK, folds=1, first_steps=4)
SEARCHING = replace(SHORT, penalty="margins", budget=None)
WAYS = {
    "mmac": SHORT,
    "folds": replace(SHORT, folds=2),
    "eq. 4": SEARCHING,
    "steered": replace(SEARCHING, agreement=0.0, margin_weight_factor=2.0, batch=30),
    "anew": replace(
        SEARCHING, renew_every=1, search_original=True, bounds_start=1.0, only_correct=True, normalised=False
    ),
    "mmbm": replace(SHORT, objective="mmbm", penalty="norm"),
    "converged": replace(SHORT, tolerance=1e9, folds=2),
}
"""Settings under which different things go on from round to round."""

SLOW = """
import sys
from mmguard.cli import progress as watch
from mmguard.calibrate.checkpoint import checkpoint
from mmguard.cli.main import main
from mmguard.cli.options import MethodOptions
from mmguard.settings import Settings
checkpoint.EVERY_SECONDS, checkpoint.SHARE = 0.0, 0.5
watch.PLAIN_SECONDS, watch.PLAIN_LINES = 0.0, 1e9
MethodOptions.settings = lambda _: Settings(rounds=40, folds=2)
main(sys.argv[1:])
"""
"""The command, with settings that take a second or two and write their checkpoint every few rounds."""


def content(path: Path) -> dict[str, bytes]:
    """Every file of a bundle that two equal calibrations write alike."""
    return {name: data for name, data in files(path).items() if name != PROVENANCE}


def stop_after(number: int) -> Callable[[Round], None]:
    def stop(report: Round) -> None:
        if report.number >= number:
            raise KeyboardInterrupt

    return stop


def interrupt(folder: Path, after: int = 2, **options: Any) -> Path:
    """Interrupt a calibration after a round. Returns the path of the checkpoint that it leaves."""
    with pytest.raises(KeyboardInterrupt):
        calibrate(folder, write_tiny(folder / "tiny.onnx"), on_round=stop_after(after), **options)
    return folder / CHECKPOINT


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_calibration_writes_the_bytes_of_an_uninterrupted_one(tmp_path: Path, way: str) -> None:
    settings = WAYS[way]
    model = write_tiny(tmp_path / "tiny.onnx")
    rounds: list[Round] = []
    whole = content(calibrate(tmp_path, model, settings=settings, on_round=rounds.append))
    shutil.rmtree(tmp_path / "out.mmguard")
    for number in [report.number for report in rounds]:  # once after each round, also after the last
        with pytest.raises(KeyboardInterrupt):
            calibrate(tmp_path, model, settings=settings, on_round=stop_after(number), resume=number > 1)
        assert not (tmp_path / "out.mmguard").exists()
    resumed: list[Round] = []
    assert content(calibrate(tmp_path, model, settings=settings, resume=True, on_round=resumed.append)) == whole
    assert resumed == [], "every round was already run"
    assert not (tmp_path / CHECKPOINT).exists()


def test_mmom_goes_on_too(tmp_path: Path) -> None:
    model, clean = write_tiny(tmp_path / "tiny.onnx"), write_clean(tmp_path / "labelled.npz", labels=True)
    options: dict[str, Any] = {"clean": clean, "settings": QUICK_MMOM}
    whole = content(calibrate(tmp_path, model, **options))
    interrupt(tmp_path, **options)
    assert content(calibrate(tmp_path, model, **options, resume=True)) == whole


def test_the_rounds_and_the_remaining_time_go_on(tmp_path: Path) -> None:
    settings = WAYS["folds"]
    interrupt(tmp_path, 4, settings=settings)
    rounds: list[Round] = []
    calibrate(tmp_path, tmp_path / "tiny.onnx", settings=settings, resume=True, on_round=rounds.append)
    assert [(report.number, report.rounds) for report in rounds] == [(number, 9) for number in range(5, 10)]
    for done, report in enumerate(rounds, 1):
        assert report.remaining == pytest.approx(report.seconds / done * (9 - report.number)), "by its own speed"


def test_an_interrupted_export_goes_on_from_the_last_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    model = write_tiny(tmp_path / "tiny.onnx")
    whole = content(calibrate(tmp_path, model))
    with monkeypatch.context() as patch:
        patch.setattr("mmguard.pipeline.write_bundle.check_export", stop)
        with pytest.raises(KeyboardInterrupt):
            calibrate(tmp_path, model)
    assert content(tmp_path / "out.mmguard") == whole, "the older bundle stays"
    assert sorted(path.name for path in tmp_path.glob(".*")) == [CHECKPOINT]
    rounds: list[Round] = []
    assert content(calibrate(tmp_path, model, resume=True, on_round=rounds.append)) == whole
    assert not rounds


@pytest.mark.parametrize("at", ["first", "second"])
def test_an_interruption_between_the_two_renames_leaves_the_older_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    model, rename, calls = write_tiny(tmp_path / "tiny.onnx"), Path.rename, []
    before = content(calibrate(tmp_path, model))

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 1 and at == "first":
            rename(path, target)
        if len(calls) == (1 if at == "first" else 2):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        patch.setattr(staging, "exchange", lambda *_: False)
        with pytest.raises(KeyboardInterrupt):
            calibrate(tmp_path, model, seed=1)
    assert content(tmp_path / "out.mmguard") == before
    assert sorted(path.name for path in tmp_path.glob(".*")) == [CHECKPOINT]


@pytest.mark.parametrize(("form", "searched"), [("original", ["original", "clipped"]), ("clipped", ["clipped"])])
def test_an_interrupted_search_for_the_audit_loses_neither_rounds_nor_margins(
    tmp_path: Path, form: str, searched: list[str]
) -> None:
    model = write_tiny(tmp_path / "tiny.onnx")
    whole = content(calibrate(tmp_path, model))
    shutil.rmtree(tmp_path / "out.mmguard")
    seen: list[Progress] = []

    def stop(standing: Progress) -> None:
        if form in standing.task and standing.phase == "audit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(tmp_path, model, on_progress=stop)
    assert sorted(path.name for path in tmp_path.glob(".*")) == [CHECKPOINT]
    rounds: list[Round] = []
    resumed = calibrate(tmp_path, model, resume=True, on_round=rounds.append, on_progress=seen.append)
    assert content(resumed) == whole
    assert not rounds
    audited = dict.fromkeys(each.task for each in seen if each.phase == "audit")
    assert audited == {f"searching for the largest margins of the {name} network": None for name in searched}
    assert not (tmp_path / CHECKPOINT).exists()


def test_an_interrupted_search_for_the_audit_can_be_left_out(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.onnx")
    without = content(calibrate(tmp_path, model, audit=False))

    def stop(standing: Progress) -> None:
        if standing.phase == "audit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(tmp_path, model, on_progress=stop)
    assert content(calibrate(tmp_path, model, resume=True, audit=False)) == without


def test_what_is_left_after_an_interruption_is_all_that_is_announced(tmp_path: Path) -> None:
    settings = WAYS["folds"]
    whole: list[Progress] = []
    calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"), settings=settings, on_progress=whole.append)
    interrupt(tmp_path, 4, settings=settings)  # the first of three rounds of the second of three runs
    rest: list[Progress] = []
    calibrate(tmp_path, tmp_path / "tiny.onnx", settings=settings, resume=True, on_progress=rest.append)
    names = [list(dict.fromkeys(each.task for each in said)) for said in (whole, rest)]
    assert [name for name in names[0] if name not in names[1]] == ["learning from all clean inputs"]
    assert rest[-1].share == pytest.approx(1)


def test_a_refusal_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise GraphMismatchError("differs")

    monkeypatch.setattr("mmguard.pipeline.write_bundle.check_export", refuse)
    with pytest.raises(GraphMismatchError):
        calibrate(tmp_path, write_tiny(tmp_path / "tiny.onnx"))
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_full_disk_at_the_end_loses_nothing_that_was_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, full = tmp_path / "whole", tmp_path / "full"
    whole.mkdir()
    full.mkdir()
    expected = calibrate(whole, write_tiny(whole / "tiny.onnx"))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("mmguard.pipeline.calibration.write", fail)
        with pytest.raises(UnwrittenBundleError, match="No space left on device"):
            calibrate(full, write_tiny(full / "tiny.onnx"))
    assert (full / CHECKPOINT).exists()
    rounds: list[Round] = []
    resumed = calibrate(full, write_tiny(full / "tiny.onnx"), resume=True, on_round=rounds.append)
    assert not rounds
    assert content(resumed) == content(expected)


def test_without_resume_a_checkpoint_is_ignored_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = write_tiny(tmp_path / "tiny.onnx")
    whole = content(calibrate(tmp_path, model, resume=True))
    assert "there is no checkpoint" in caplog.text
    assert "starting from the beginning" in caplog.text
    kept = interrupt(tmp_path)
    rounds: list[Round] = []
    caplog.clear()
    assert content(calibrate(tmp_path, model, on_round=rounds.append)) == whole
    assert rounds[0].number == 1
    assert re.search(r"overwriting the checkpoint .*pass --resume to continue", caplog.text)
    assert "will be replaced" in caplog.text
    assert not kept.exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, r"seed \(0, now 1\)"),
        ({"rounds": 4}, r"rounds \(3, now 4\)"),
        ({"logits": "features"}, r"clip sites, logits \(logits, now features\)"),
        (
            {"theta": 0.01, "settings": replace(QUICK, objective="mmbm", penalty="norm")},
            r"objective \(mmac, now mmbm\), penalty .*, theta \(0.005, now 0.01\)",
        ),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    kept = interrupt(tmp_path)
    before = kept.read_bytes()
    with pytest.raises(
        CheckpointError, match=rf"belongs to a different calibration, which differs in: {named}; .*without --resume"
    ):
        calibrate(tmp_path, tmp_path / "tiny.onnx", resume=True, **options)
    assert kept.read_bytes() == before


def test_a_checkpoint_of_another_model_or_clean_set_is_refused(tmp_path: Path) -> None:
    interrupt(tmp_path)
    model = tmp_path / "tiny.onnx"
    labelled = write_clean(tmp_path / "labelled.npz", labels=True)
    fewer = write_clean(tmp_path / "fewer.npz", n=100)
    other = tmp_path / "other.onnx"
    other.write_bytes(model.read_bytes() + b"\x3a\x00")  # an empty graph merged in: the same network, other bytes
    for arguments, named in (
        ((model, labelled), "labels"),
        ((model, fewer), "clean inputs"),
        ((other, None), "model"),
    ):
        with pytest.raises(CheckpointError, match=rf"differs in: {named};"):
            calibrate(tmp_path, *arguments, resume=True)


def test_other_external_weights_are_another_model(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.onnx")
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="tiny.weights", size_threshold=0)
    with pytest.raises(KeyboardInterrupt):
        calibrate(tmp_path, model, on_round=stop_after(1))
    weights = np.fromfile(tmp_path / "tiny.weights", np.float32)
    (weights * np.float32(1.001)).tofile(tmp_path / "tiny.weights")
    with pytest.raises(CheckpointError, match="differs in: model;"):
        calibrate(tmp_path, model, resume=True)


class Command:
    """`mmguard calibrate` in a process of its own, slowed down."""

    def __init__(self, folder: Path, *options: str, out: str = "out.mmguard") -> None:
        words = ["calibrate", folder / "tiny.onnx", folder / "clean.npz", "--out", folder / out]
        self._process = subprocess.Popen(
            [sys.executable, "-c", SLOW, *map(str, words), *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background lets its children ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def finish(self) -> tuple[int, str]:
        """Exit code and standard error."""
        error = self._process.communicate(timeout=60)[1]
        return self._process.returncode, error

    def stop(self, number: signal.Signals, kept: Path) -> tuple[int, str]:
        """Send a signal once the second of three runs keeps its rounds."""
        assert self._process.stderr is not None
        seen = ""
        watchdog = threading.Timer(60, self._process.kill)
        watchdog.start()
        while "round 50/" not in seen or not kept.exists():
            line = self._process.stderr.readline()
            assert line, seen
            seen += line
        time.sleep(0.02)  # amid a round
        self._process.send_signal(number)
        code, rest = self.finish()
        watchdog.cancel()
        return code, seen + rest


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_tiny(folder / "tiny.onnx")
    write_clean(folder / "clean.npz")
    code, error = Command(folder).finish()
    assert code == 0, error
    return content(folder / "out.mmguard")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_process_goes_on_to_the_same_bytes(
    tmp_path: Path, uninterrupted: dict[str, bytes], number: signal.Signals, code: int
) -> None:
    write_tiny(tmp_path / "tiny.onnx")
    write_clean(tmp_path / "clean.npz")
    kept = tmp_path / CHECKPOINT
    stopped, error = Command(tmp_path).stop(number, kept)
    assert stopped == code
    assert "Traceback" not in error
    assert not (tmp_path / "out.mmguard").exists()
    if number != signal.SIGKILL:
        assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "clean.npz", "tiny.onnx"]
        found = re.search(r"interrupted at round (\d+) of 120; run the same command with --resume to continue$", error)
        assert found, error
        assert int(found[1]) >= 50
    assert kept.stat().st_mode & 0o077 == 0, "it holds inputs like the user's own"
    if number == signal.SIGTERM:
        return  # what it left is as of the other two
    finished, error = Command(tmp_path, "--resume").finish()
    assert finished == 0, error
    assert "resuming from the checkpoint" in error
    assert "round 1/" not in error
    assert content(tmp_path / "out.mmguard") == uninterrupted
    assert not kept.exists()


def test_writing_takes_a_two_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, writes = [0.0], []

    def slow(self: checkpoint.Checkpoint, state: Any) -> None:
        writes.append(now[0])
        now[0] += 0.02

    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(checkpoint.Checkpoint, "_write", slow)
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    with checkpoint.Checkpoint(tmp_path / "kept", {}) as kept:
        for _ in range(400):
            kept.keep({})
            now[0] += 0.1
    assert 9 <= len(writes) <= 11, "over 40 s, one that takes 0.02 s is due every 4 s"
    assert np.diff(writes).min() >= 4
