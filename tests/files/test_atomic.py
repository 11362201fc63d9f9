"""Bundles that are written while processes are killed, and read while others write."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.write import staged
from mmguard.errors import BundleError
from mmguard.files import atomic as staging
from mmguard.files import locks
from mmguard.files.atomic import SUFFIX, beside, exchange, sweep
from mmguard.guard import Guard
from tests.bundles import clean_inputs, write_tiny_bundle

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from mmguard.bundle import write
from mmguard.files import atomic as staging
from tests.bundles import write_tiny_bundle

out, at = Path(sys.argv[1]), sys.argv[2]

def kill(*_, **__):
    if at == "whole waits":
        print("there", flush=True)
        sys.stdin.read()
    else:
        os.kill(os.getpid(), signal.SIGKILL)

def after(function):
    def wrapped(*arguments, **options):
        result = function(*arguments, **options)
        kill()
        return result
    return wrapped

if at == "half":
    import tests.bundles
    tests.bundles.write = kill
if at.startswith("whole"):
    write.put_in_place = kill
if at == "exchanged":
    staging.exchange = after(staging.exchange)
if at == "renamed":
    staging.exchange = lambda *_: False
    Path.rename = after(Path.rename)
write_tiny_bundle(out, "newer", seed=1)
"""
"""Writes a bundle, and is killed when half of its files are there, or all of them, or amid putting it in place."""


def writer(out: Path, at: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", KILLED, str(out), at]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(out: Path, at: str) -> None:
    with writer(out, at) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A bundle alone in its folder."""
    return write_tiny_bundle(tmp_path / "tiny.mmguard", "older")


@pytest.mark.parametrize(("at", "stands"), [("half", "older"), ("whole", "older"), ("exchanged", "newer")])
def test_a_kill_at_any_point_leaves_a_whole_bundle_and_the_next_calibration_sweeps(
    out: Path, at: str, stands: str
) -> None:
    kill(out, at)
    assert Bundle.open(out).manifest.name == stands
    (left,) = set(out.parent.iterdir()) - {out}
    assert left.name.startswith(".tiny.mmguard.")
    write_tiny_bundle(out, "newest")
    assert list(out.parent.iterdir()) == [out]
    assert Bundle.open(out).manifest.name == "newest"


def test_where_nothing_can_be_exchanged_a_kill_between_the_two_renames_is_mended_by_the_next_calibration(
    out: Path,
) -> None:
    kill(out, "renamed")
    assert not out.exists()
    with pytest.raises(KeyboardInterrupt), staged(out):  # even if it is interrupted too
        raise KeyboardInterrupt
    assert Bundle.open(out).manifest.name == "older"
    assert list(out.parent.iterdir()) == [out]


def test_a_kill_before_there_was_a_bundle_leaves_none_and_is_swept(tmp_path: Path) -> None:
    out = tmp_path / "tiny.mmguard"
    kill(out, "half")
    assert not out.exists()
    write_tiny_bundle(out)
    assert list(tmp_path.iterdir()) == [out]


def test_what_a_living_calibration_writes_is_not_swept(out: Path) -> None:
    with writer(out, "whole waits") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        (folder,) = set(out.parent.iterdir()) - {out}
        write_tiny_bundle(out, "another")
        assert set(out.parent.iterdir()) == {out, folder}
        assert (folder / "new" / "original.onnx").is_file()
        process.communicate()
    assert process.returncode == 0


def test_only_folders_of_the_same_bundle_are_swept(tmp_path: Path) -> None:
    kept = [
        ".a.mmguard.abcdefgh",
        ".a.mmguard.abcdefghi.partial",
        ".a.mmguard.checkpoint",
        ".b.mmguard.abcdefgh.partial",
    ]
    for name in (*kept, ".a.mmguard.abcdefgh.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / ".a.mmguard.12345678.partial").write_text("a file", encoding="utf-8")
    (tmp_path / ".a.mmguard.23456789.partial").symlink_to(tmp_path / kept[0])
    sweep(tmp_path / "a.mmguard")
    assert {path.name for path in tmp_path.iterdir()} == {
        *kept,
        ".a.mmguard.12345678.partial",
        ".a.mmguard.23456789.partial",
    }


def test_a_folder_that_is_swept_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, swept = locks.held, list[Path]()

    def late(folder: Path):  # type: ignore[no-untyped-def]
        if not swept:
            swept.append(folder)
            sweep(tmp_path / "x")
        return held(folder)

    monkeypatch.setattr(staging, "held", late)
    with beside(tmp_path / "x") as folder:
        assert folder != swept[0]
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_without_locks_a_folder_is_swept_a_day_after_its_last_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with beside(tmp_path / "x") as folder:
        sweep(tmp_path / "x")
        assert folder.exists()
        os.utime(folder, (0, 0))
        sweep(tmp_path / "x")
        assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can exchange two folders")
def test_two_folders_are_exchanged(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of {name}").touch()
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["of b"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "c")


def replace_again_and_again(out: Path, bundles: list[Path], times: int) -> None:
    for i in range(times):
        with staged(out) as folder:
            shutil.copytree(bundles[i % 2], folder, dirs_exist_ok=True)
        time.sleep(0.02)


def test_a_bundle_that_is_replaced_50_times_is_never_missing_nor_mixed(tmp_path: Path) -> None:
    out, bundles = tmp_path / "out" / "tiny.mmguard", [tmp_path / f"{i}.mmguard" for i in (0, 1)]
    for i in (0, 1):
        write_tiny_bundle(bundles[i], f"bundle{i}", seed=i)
    replace_again_and_again(out, bundles, 1)
    x = clean_inputs(1)
    own = {f"bundle{i}": Guard(bundles[i], registry=None)(x).margin_gaps[0] for i in (0, 1)}
    process = multiprocessing.get_context("spawn").Process(target=replace_again_and_again, args=(out, bundles, 50))
    process.start()
    seen = set[str]()
    while process.is_alive():
        assert Bundle.open(out).manifest.name in own
        with Guard(out, registry=None, threads=1) as guard:
            name = guard.bundle.manifest.name
            assert guard(x).margin_gaps[0] == pytest.approx(own[name], rel=1e-5)
            seen.add(name)
    process.join()
    assert process.exitcode == 0
    assert seen == set(own)
    assert list(out.parent.iterdir()) == [out]


def test_of_two_calibrations_that_write_one_bundle_at_once_both_succeed(tmp_path: Path) -> None:
    out, errors = tmp_path / "tiny.mmguard", list[Exception]()

    def write(seed: int) -> None:
        try:
            for _ in range(5):
                write_tiny_bundle(out, f"bundle{seed}", seed=seed)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert Bundle.open(out).manifest.name in ("bundle0", "bundle1")
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with (
        pytest.raises(BundleError, match=r"x\.mmguard cannot be written: .*No space left"),
        staged(tmp_path / "x.mmguard"),
    ):
        pass
    assert SUFFIX not in "".join(path.name for path in tmp_path.iterdir())
