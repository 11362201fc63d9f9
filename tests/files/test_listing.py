"""What is found below a folder that others fill, and that none of it is waited for."""

import os
import socket
from pathlib import Path

import pytest

from mmguard.files.listing import READ_ALREADY, Entry, is_litter, list_files
from mmguard.files.opening import open_file
from mmguard.text.sanitize import shown


def listed(folder: Path, hidden: bool = True) -> dict[str, str]:
    """What is said of each thing below a folder, by its path in it; a file is `""`."""
    return {
        entry.path.relative_to(folder).as_posix(): entry.problem or entry.passed_over
        for entry in list_files(folder, hidden=hidden)
    }


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


NAMES = ("b/2.PNG", "b/10.jfif", "a.avif", "none", "notes.txt", "b/.d/e.png", ".hidden.png", ".cache/c.png")


def test_every_file_is_found_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert listed(write(tmp_path, *NAMES)) == dict.fromkeys(NAMES, "")


def test_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    assert list(listed(write(tmp_path, "b/2", "b/10", "a", "b.c/d", "b/a/z"))) == ["a", "b/10", "b/2", "b/a/z", "b.c/d"]


def test_hidden_files_are_passed_over_by_name_where_they_are_no_inputs(tmp_path: Path) -> None:
    found = listed(write(tmp_path, *NAMES), hidden=False)
    assert {name for name, said in found.items() if not said} == {"b/2.PNG", "b/10.jfif", "a.avif", "none", "notes.txt"}
    assert {name for name, said in found.items() if said == "hidden"} == {".hidden.png", ".cache", "b/.d"}


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "none")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
        found = listed(tmp_path)
    assert found["a.png"] == found["link.png"] == ""
    assert found["pipe.png"] == "a pipe, not a file"
    assert found["device.png"] == "a device, not a file"
    assert found["socket.png"] == "a socket, not a file"
    assert found["nowhere.png"].startswith("the link is broken: ")
    assert found["itself.png"].startswith("the link is broken: ")
    for name in ("pipe.png", "device.png", "socket.png", "."):
        with pytest.raises(OSError, match=r"not a file|No such device"):
            open_file(tmp_path / name)
    with open_file(tmp_path / "link.png") as file:
        assert file.read() == b""


def test_links_in_circles_end(tmp_path: Path) -> None:
    write(tmp_path, "a/1", "b/2")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert listed(tmp_path) == {"a/1": "", "b/2": ""} | dict.fromkeys(["a/to_b", "b/to_a", "a/up"], READ_ALREADY)


def test_a_link_does_not_lead_out_to_what_the_folder_lies_in(tmp_path: Path) -> None:
    write(tmp_path, "secret", "inbox/deep/a", "elsewhere/b")
    for name, target in (
        ("one", tmp_path),
        ("two", tmp_path.parent),
        ("three", Path("/")),
        ("four", tmp_path / "elsewhere"),
    ):
        (tmp_path / "inbox" / name).symlink_to(target)
    out = dict.fromkeys(["one", "two", "three"], READ_ALREADY)
    assert listed(tmp_path / "inbox") == {"deep/a": "", "four/b": ""} | out


def test_links_that_multiply_do_not(tmp_path: Path) -> None:
    """Two links to the next folder in each of twenty would be 2^20 paths."""
    for i in range(20):
        folder = tmp_path / "below" / str(i)
        folder.mkdir(parents=True)
        (folder / "one").symlink_to(tmp_path / "below" / str(i + 1))
        (folder / "two").symlink_to(tmp_path / "below" / str(i + 1))
    write(tmp_path, "below/20/file")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "start").symlink_to(tmp_path / "below" / "0")
    found = listed(tmp_path / "top")
    assert len(found) == 21
    assert list(found.values()).count("") == 1


def test_what_lies_behind_a_link_is_found_once(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/a.png", "inbox/b.png")
    for name in ("cat", "dog"):
        (tmp_path / "inbox" / name).symlink_to(tmp_path / "elsewhere")
    found = listed(tmp_path / "inbox")
    assert sorted(found.values()) == ["", "", READ_ALREADY]
    assert {name for name, said in found.items() if not said} < {"b.png", "cat/a.png", "dog/a.png"}


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "open/a", "shut/b")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert listed(tmp_path) == {"open/a": "", "shut": "the folder cannot be read: Permission denied"}


def test_a_name_cannot_turn_a_message(tmp_path: Path) -> None:
    assert shown(Path("a\n\x1b[2J\u202egnp.exe\udcff")) == "a\ufffd\ufffd[2J\ufffdgnp.exe\ufffd"
    assert Entry(tmp_path) == Entry(tmp_path, "", "")


@pytest.mark.parametrize(
    ("name", "litter"),
    [
        ("Thumbs.db", True),
        (".DS_Store", True),
        ("desktop.INI", True),
        ("._a.png", True),
        ("a.db", False),
        (".a", False),
    ],
)
def test_operating_systems_leave_files_of_known_names(name: str, litter: bool) -> None:
    assert is_litter(Path("folder") / name) is litter
