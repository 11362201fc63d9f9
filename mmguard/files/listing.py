"""List the files below an untrusted folder, and give the reason for each path that cannot be read."""

import os
from dataclasses import dataclass
from pathlib import Path

from mmguard.files.opening import why_not_a_file

READ_ALREADY = "a link to a folder that has already been read or that contains the link"
LITTER = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"})
"""Names, in lower case, of files that operating systems create in folders."""


@dataclass(frozen=True)
class Entry:
    """One path below a folder: a file, or something that mmguard does not read.

    Attributes:
        path: path of the entry.
        problem: why the path cannot be read; empty if it can be read.
        passed_over: why the path is not an input; empty if it is an input.
    """

    path: Path
    problem: str = ""
    passed_over: str = ""


def is_litter(path: Path) -> bool:
    """Check whether a file's name shows that the operating system created the file, rather than a user.

    Args:
        path: path of the file, which need not exist.

    Returns:
        Whether the name is one that macOS or Windows uses for its own files.

    Example:
        >>> is_litter(Path("cat/Thumbs.db")), is_litter(Path("cat/._1.png")), is_litter(Path("cat/1.png"))
        (True, True, False)
    """
    return path.name.lower() in LITTER or path.name.startswith("._")


def list_files(folder: Path, *, hidden: bool) -> list[Entry]:
    """List everything below a folder except the subfolders themselves, sorted by path.

    Links are followed, except links to a folder that contains `folder`. If several paths lead to the same folder, the
    folder is read once, under its real path if the real path is below `folder`.

    Args:
        folder: folder to list.
        hidden: whether to treat files and folders whose names begin with a dot as inputs instead of passing them over.

    Returns:
        An entry for each file, and for each path that cannot be read, that is passed over, or that is neither a file
            nor a folder.
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
            entries.append(Entry(here, problem=f"the folder cannot be read: {error.strerror}"))
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
    """Return the device and inode numbers of a folder, which are the same for all paths to the folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link that points to itself
        return False


def _entry(path: Path, child: os.DirEntry[str]) -> Entry:
    try:
        return Entry(path, why_not_a_file(child.stat().st_mode))
    except OSError as error:
        return Entry(path, f"the link is broken: {error.strerror}" if child.is_symlink() else str(error.strerror))
