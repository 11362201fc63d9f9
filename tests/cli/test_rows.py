"""The command `scan`: where its rows go, what it says of them, and its exit code."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest

from mmguard.cli.app import DONE, FAILED, FOUND, WRONG_USE
from mmguard.cli.main import main
from mmguard.cli.rows import check_rows_file, rows_file
from mmguard.cli.scan import describe_scan
from mmguard.errors import InputError, OptionError
from mmguard.guard.scan import Summary
from tests.bundles import add_trigger, clean_inputs, write_tiny_bundle


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, output and errors of `mmguard scan`."""
    with pytest.raises(SystemExit) as exited:
        main(["scan", *map(str, words)])
    assert isinstance(exited.value.code, int)
    out, err = capsys.readouterr()
    return exited.value.code, out, err


def save(path: Path, x: Any) -> Path:
    np.save(path, x)
    return path


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return save(tmp_path / "clean.npy", clean_inputs(3))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_of_two_scans_never_mix(tmp_path: Path) -> None:
    """Each writes line by line, in turn with the other."""
    out, turn, whole = tmp_path / "rows.jsonl", threading.Barrier(2), {}

    def write(letter: str) -> None:
        whole[letter] = "".join(f"{letter * 30}{i}\n" for i in range(50))
        with rows_file(out) as file:
            for line in whole[letter].splitlines(keepends=True):
                turn.wait(10)
                file.write(line)
                file.flush()

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out.read_text(encoding="utf-8") in whole.values()
    assert names(tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize("name", ["rows.jsonl.partial", ".rows.jsonl.partial"])
def test_a_link_planted_beside_the_rows_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    (tmp_path / name).symlink_to(tmp_path / "precious")
    with rows_file(tmp_path / "rows.jsonl") as file:
        assert (tmp_path / name).is_symlink()
        file.write("row\n")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == "row\n"
    assert not (tmp_path / "rows.jsonl").is_symlink()


def test_rows_are_private_until_they_are_whole_and_then_as_other_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with rows_file(tmp_path / "rows.jsonl") as file:
            file.write("row\n")
            (folder,) = tmp_path.iterdir()
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "rows.jsonl").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_what_a_killed_scan_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from mmguard.cli.rows import rows_file\n"
        "with rows_file(Path(sys.argv[1])) as file: file.write('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "rows.jsonl")], check=False)
    assert killed.returncode == -9
    assert len(names(tmp_path)) == 1
    with rows_file(tmp_path / "rows.jsonl") as file:
        file.write("row\n")
    assert names(tmp_path) == ["rows.jsonl"]


def _write_and_raise(file: TextIO, error: type[BaseException]) -> None:
    file.write("new")
    raise error


@pytest.mark.parametrize("error", [InputError, RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_scan_that_ends_early_leaves_the_rows_of_the_last_one(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "rows.jsonl").write_text("old", encoding="utf-8")
    with pytest.raises(error), rows_file(tmp_path / "rows.jsonl") as file:
        _write_and_raise(file, error)
    assert names(tmp_path) == ["rows.jsonl"]
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == "old"


def test_rows_that_cannot_be_written_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out .* cannot be written"), rows_file(tmp_path / "none" / "rows.jsonl"):
        pass
    with pytest.raises(InputError, match=r"cannot be written: .*full"), rows_file(tmp_path / "rows.jsonl"):
        raise OSError("the disk is full")
    assert names(tmp_path) == []


def test_a_failing_scan_leaves_the_last_rows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_bundle: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("old", encoding="utf-8")
    assert run(capsys, tiny_bundle, tmp_path / "none", "--out", rows)[0] == FAILED
    assert rows.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["rows.jsonl"]


def test_rows_come_before_the_word_on_what_ended_the_scan(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b.mmguard")
    script = (
        "import sys; from mmguard.cli import main, scan\n"
        "def fail(*_):\n"
        "    yield {'input': '0'}\n"
        "    raise RuntimeError('broken')\n"
        "scan.scan_rows = fail\n"
        "try:\n"
        "    main.main(['scan', *sys.argv[1:]])\n"
        "except RuntimeError as error:\n"
        "    print(error, file=sys.stderr, flush=True)\n"
        "    import os; os._exit(7)  # nothing is flushed after this\n"
    )
    words = [sys.executable, "-c", script, str(bundle), str(save(tmp_path / "x.npy", clean_inputs(1)))]
    finished = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert finished.stdout.splitlines()[-2:] == ['{"input": "0"}', "broken"]
    assert finished.returncode == 7


def test_the_bundle_is_never_written_over(capsys: pytest.CaptureFixture[str], clean: Path, tiny_bundle: Path) -> None:
    before = (tiny_bundle / "manifest.json").read_bytes()
    code, _, err = run(capsys, tiny_bundle, clean, "--out", tiny_bundle / "manifest.json")
    assert code == WRONG_USE
    assert "lies in the bundle" in err
    assert (tiny_bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("out", ["clean.npy", "photo.PNG", "photo.avif", "other.NPZ", "table.csv"])
def test_an_input_is_never_written_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clean: Path, tiny_bundle: Path, out: str
) -> None:
    if out != "clean.npy":
        (tmp_path / out).write_bytes(b"precious")
    before = (tmp_path / out).read_bytes()
    code, _, err = run(capsys, tiny_bundle, clean, "--out", tmp_path / out)
    assert code == WRONG_USE
    assert "is an input, or has the suffix of an image or array file" in err
    assert (tmp_path / out).read_bytes() == before


def test_rows_do_not_go_where_they_would_be_scanned(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (tmp_path / "link.jsonl").symlink_to(inbox / "rows.jsonl")
    for out in (inbox / "rows.jsonl", inbox / "deep" / "rows.jsonl", tmp_path / "link.jsonl"):
        with pytest.raises(OptionError, match="lies in the scanned folder"):
            check_rows_file(out, tmp_path / "b.mmguard", inbox)
    check_rows_file(tmp_path / "rows.jsonl", tmp_path / "b.mmguard", inbox)


def test_a_pipe_is_written_to_and_not_replaced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clean: Path, tiny_bundle: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run(capsys, tiny_bundle, clean, "--out", pipe)[0] == DONE
        assert len(os.read(reader, 2**16).splitlines()) == 3
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_link_to_the_rows_is_followed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clean: Path, tiny_bundle: Path
) -> None:
    rows, link = tmp_path / "rows.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(rows)
    assert run(capsys, tiny_bundle, clean, "--out", link)[0] == DONE
    assert link.is_symlink()
    assert len(rows.read_text(encoding="utf-8").splitlines()) == 3


def test_a_scan_of_nothing_is_no_success(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_bundle: Path) -> None:
    code, _, err = run(capsys, tiny_bundle, save(tmp_path / "nothing.npy", clean_inputs(3)[:0]))
    assert code == FAILED
    assert "no input was judged" in err


@pytest.mark.parametrize(
    ("triggered", "options", "expected"),
    [(1, [], DONE), (1, ["--fail-on-flag"], FOUND), (0, ["--fail-on-flag"], DONE), (3, [], FOUND)],
)
def test_one_flag_fails_a_scan_only_where_it_is_asked_to(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_bundle: Path,
    triggered: int,
    options: list[str],
    expected: int,
) -> None:
    """One flag in five may be chance, at θ = 0.005; three are none."""
    x = clean_inputs(5, seed=6)
    x[:triggered] = add_trigger(x[:triggered])
    code, out, err = run(capsys, tiny_bundle, save(tmp_path / "x.npy", x), *options)
    assert [json.loads(line)["flagged"] for line in out.splitlines()] == [i < triggered for i in range(5)]
    assert f"{triggered} flagged" in err
    assert code == expected


def test_bad_rows_are_named_and_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_bundle: Path) -> None:
    x = clean_inputs(5)
    x[3] = np.nan
    code, out, err = run(capsys, tiny_bundle, save(tmp_path / "x.npy", x))
    assert (code, out) == (FAILED, "")
    assert "row 3 has values that are NaN or infinite in float32; pass --skip-bad" in err
    code, out, err = run(capsys, tiny_bundle, tmp_path / "x.npy", "--skip-bad")
    assert code == DONE
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["input"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[3].keys() == {"input", "error"}
    assert "4 inputs, 0 flagged, 0 corrected, 1 unreadable, 0 untested;" in err


def test_a_scans_last_word_counts_what_was_not_judged_and_names_what_was_passed_over() -> None:
    skipped = ("Thumbs.db", *(f"{i}/.DS\x1b_Store" for i in range(6)))
    summary = Summary(9, 2, 1, 3, 4, skipped, 5, {"both": 2}, 2, 1)
    named = ", ".join(["Thumbs.db", *(f"{i}/.DS\ufffd_Store" for i in range(4))]) + " and 2 more"
    assert describe_scan(summary) == (
        f"9 inputs, 2 flagged (2 both), 1 corrected, 3 unreadable, 4 untested, 7 skipped ({named}), "
        "5 with several frames (only the first frame was judged); "
        "2 with p ≤ θ; chance explains at most 1 (in 999 of 1,000 scans of only clean inputs)"
    )
    assert describe_scan(Summary(9, 0, 0, 0, 0, (), 0, {}, 0, None)) == (
        "9 inputs, 0 flagged, 0 corrected, 0 unreadable, 0 untested; the bundle has no test, so no input is flagged"
    )


def test_a_networks_failure_on_a_row_is_no_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clean: Path, tiny_bundle: Path
) -> None:
    """The guard of a scan answers by `on_error="closed"`: never with a label that was not tested."""
    seen: list[str] = []

    def look(guard: Any, *_: object) -> Iterator[dict[str, Any]]:
        seen.append(guard.policy.on_error)
        yield from ()

    monkeypatch.setattr("mmguard.cli.scan.scan_rows", look)
    assert run(capsys, tiny_bundle, clean)[0] == FAILED
    assert seen == ["closed"]
