"""Files that others may have put there: found, named and opened without ever waiting on one."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmguard.text.sanitize import visible

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
READ_ALREADY = "leads to a folder that is read already, or that it lies in"
LITTER = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"})
"""Names, in small letters, of files that operating systems leave in folders."""


@dataclass(frozen=True)
class Entry:
    """What lies below a folder.

    Attributes:
        path: of a file, or of something else where one of the other two says so.
        problem: why it cannot be read, empty where it may be.
        passed_over: why it is no input, empty where it is one.
    """

    path: Path
    problem: str = ""
    passed_over: str = ""


def shown(path: Path) -> str:
    """A path for a message: without characters that would hide or turn the text around them."""
    return visible(str(path))


def is_litter(path: Path) -> bool:
    """Whether an operating system names files so that it leaves beside those of its users."""
    return path.name.lower() in LITTER or path.name.startswith("._")


def open_file(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        OSError: it cannot be opened, or it is a pipe, a socket, a device or a folder, none of which is waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if problem := _problem(os.fstat(descriptor).st_mode):
            raise OSError(problem)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def list_files(folder: Path, *, hidden: bool) -> list[Entry]:
    """All that lies below a folder, also behind links, sorted by path; folders themselves are left out.

    A folder that several links lead to is read once, under its own name where it has one below `folder`; one that
    `folder` lies in is not read.

    Args:
        hidden: whether files and folders whose names begin with a dot are inputs too; else they are passed over.

    Returns:
        One entry for each file, and for each thing that is neither file nor folder or cannot be read.
    """
    entries: list[Entry] = []
    folders, links, seen = [folder], list[Path](), set(map(_identity, folder.resolve().parents))
    while folders or links:
        here = folders.pop() if folders else links.pop()
        try:
            if (identity := _identity(here)) in seen:
                entries.append(Entry(here, passed_over=READ_ALREADY))
                continue
            seen.add(identity)
            children = list(os.scandir(here))
        except OSError as error:
            entries.append(Entry(here, problem=f"a folder that cannot be read: {error.strerror}"))
            continue
        for child in sorted(children, key=lambda child: child.name, reverse=True):
            path = here / child.name
            if child.name.startswith(".") and not hidden:
                entries.append(Entry(path, passed_over="hidden"))
            elif _is_folder(child):
                (links if child.is_symlink() else folders).append(path)
            else:
                entries.append(_entry(path, child))
    return sorted(entries, key=lambda entry: entry.path.parts)


def _identity(folder: Path) -> tuple[int, int]:
    """What is the same of two paths of one folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def _entry(path: Path, child: os.DirEntry[str]) -> Entry:
    try:
        return Entry(path, _problem(child.stat().st_mode))
    except OSError as error:
        return Entry(path, f"leads nowhere: {error.strerror}" if child.is_symlink() else str(error.strerror))


def _problem(mode: int) -> str:
    """Why something of this mode is not read; empty for a file."""
    return "" if stat.S_ISREG(mode) else f"{KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file"
