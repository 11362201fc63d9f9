"""The file that a calibration goes on from: whole and its own, or refused."""

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmguard.calibrate.checkpoint import checkpoint
from mmguard.calibrate.checkpoint.checkpoint import Checkpoint
from mmguard.calibrate.checkpoint.fingerprint import Fingerprint
from mmguard.calibrate.checkpoint.state import State
from mmguard.errors import CheckpointError

OWN: Fingerprint = {"seed": 0, "rate": 0.1, "start": None, "model": 64 * "a"}
STATE: State = {
    "number": np.asarray(3),
    "weight": np.asarray(0.1),
    "converged": np.asarray(False),
    "nothing": np.empty((0, 2), np.float32),
    "generator": np.arange(5, dtype=np.uint8),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A written checkpoint."""
    path = tmp_path / ".out.mmguard.checkpoint"
    write(path, STATE)
    return path


def write(path: Path, state: State) -> None:
    def interrupted() -> None:
        with Checkpoint(path, OWN) as kept:
            kept.keep(state)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_what_is_loaded_is_what_was_kept(path: Path) -> None:
    loaded = Checkpoint(path, OWN).load()
    assert loaded is not None
    assert set(loaded) == set(STATE)
    for name, array in STATE.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_it_is_private_and_a_plain_safetensors_file(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert set(load_file(path)) == set(STATE)


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "none", OWN).load() is None


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (OWN | {"seed": 1}, r"seed \(0, now 1\);"),
        (OWN | {"start": 0.5, "rate": 0.2}, r"rate \(0.1, now 0.2\), start \(None, now 0.5\);"),
        (OWN | {"model": 64 * "b"}, "model;"),
        (OWN | {"new": 1}, r"new \(None, now 1\);"),
        ({"seed": 0, "rate": 0.1, "start": None}, "model"),
    ],
)
def test_another_calibration_is_refused_and_what_differs_is_named(path: Path, other: Fingerprint, named: str) -> None:
    with pytest.raises(CheckpointError, match=f"which differs in: {named}"):
        Checkpoint(path, other).load()


def test_a_truncated_or_foreign_file_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:100], whole[:4], b"", b"\xff" * 200, whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is damaged \(mmguard cannot read the file: .*without --resume"):
            Checkpoint(path, OWN).load()


def test_every_changed_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for position in range(8, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match=r"is damaged|belongs to a different calibration"):
            Checkpoint(path, OWN).load()


@pytest.mark.parametrize("texts", [None, {"sha256": "0"}, {"fingerprint": "[]", "sha256": "0"}, {"fingerprint": "{"}])
def test_texts_that_are_not_a_checkpoints_are_refused(path: Path, texts: dict[str, str] | None) -> None:
    save_file(STATE, path, texts)
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint(path, OWN).load()


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint(tmp_path, OWN).load()


def test_a_write_that_fails_leaves_the_older_one_and_the_calibration_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: State, file: Path, texts: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "save_file", fail)
    before = path.read_bytes()
    kept = Checkpoint(path, OWN)
    for _ in range(3):
        kept.keep(STATE)
    assert caplog.text.count(f"cannot write the checkpoint {path}: no space left on device") == 1
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
from pathlib import Path
from mmguard.calibrate.checkpoint import checkpoint
from tests.calibrate.checkpoint.test_checkpoint import OWN, STATE

def killed(state, half, texts):
    half.write_bytes(b"half")
    print("half", flush=True)
    sys.stdin.read() if sys.argv[2] == "waits" else os.kill(os.getpid(), signal.SIGKILL)

checkpoint.EVERY_SECONDS, checkpoint.save_file = 0.0, killed
checkpoint.Checkpoint(Path(sys.argv[1]), OWN).keep(STATE)
"""


def writer(path: Path, how: str) -> "subprocess.Popen[str]":
    """A process that is amid a write of the checkpoint."""
    arguments = [sys.executable, "-c", KILLED, str(path), how]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def test_what_a_kill_left_half_written_is_removed_by_the_next_calibration(path: Path) -> None:
    with writer(path, "dies") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2
    with Checkpoint(path, OWN) as kept:
        assert list(path.parent.iterdir()) == [path]
        kept.remove()
    assert list(path.parent.iterdir()) == []


def test_what_a_living_calibration_writes_is_not_removed_by_another(path: Path) -> None:
    with writer(path, "waits") as process:
        with Checkpoint(path, OWN) as kept:
            (half,) = set(path.parent.iterdir()) - {path}
            assert half.stat().st_mode & 0o077 == 0, "it holds inputs like the user's own"
            kept.remove()
        assert half.exists()
        process.communicate()
    assert list(path.parent.iterdir()) == [path]


def test_a_fingerprint_is_json(path: Path) -> None:
    assert json.loads(json.dumps(OWN)) == OWN


@pytest.mark.parametrize("fingerprint", ["[" * 100_000, "{"])
def test_a_text_that_no_reader_takes_is_damage(path: Path, fingerprint: str) -> None:
    save_file(STATE, path, {"fingerprint": fingerprint, "sha256": "0"})
    with pytest.raises(CheckpointError, match=r"is damaged \(mmguard cannot read the file"):
        Checkpoint(path, OWN).load()
