"""Write files and folders atomically, and clean up after processes that were killed while writing.

A new version of `NAME` is first written inside `.NAME.XXXXXXXX.partial`, a temporary folder next to `NAME` that only
its owner can read.
"""

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mmguard.files.locks import abandoned, held

SUFFIX = ".partial"
NEW, OLD = "new", "old"
"""Names of the new and the old version in the temporary folder. The old version is moved there only if the new and the
old version cannot be exchanged in one step."""

AT_FDCWD, RENAME_EXCHANGE = -100, 2
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""Error numbers that mean that the operating system or the file system cannot exchange two paths."""


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Create a temporary folder next to `path`, and remove it when the context ends, even if an exception is raised.

    If the process is killed, the folder is left behind; `sweep` removes it later.

    Args:
        path: file or folder that is about to be written. The parent folder is created if it is missing.

    Yields:
        The path of the empty folder.

    Raises:
        OSError: the folder cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with suppress(FileNotFoundError):
                stack.enter_context(held(folder))
            if folder.exists():  # another process may have removed the folder before it was locked
                yield folder
                return


def sweep(path: Path) -> None:
    """Remove the temporary folders that killed processes left next to `path`, but not those of running processes.

    If a process was killed while it was replacing a folder, and `path` no longer exists, the old folder is moved back
    to `path`.

    Args:
        path: file or folder whose temporary folders are removed.
    """
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(SUFFIX)}")
    for folder in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        if not leftover.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError), abandoned(folder) as free:
            if free:
                if not path.exists() and (folder / OLD).exists():
                    (folder / OLD).rename(path)
                shutil.rmtree(folder, ignore_errors=True)


def put_in_place(new: Path, path: Path, old: Path) -> None:
    """Move the folder `new` to `path`. If `path` already exists, exchange the two folders in one step.

    If the file system cannot exchange them, the existing folder is moved to `old` first. If moving `new` then fails or
    is interrupted, the existing folder is moved back to `path`.

    Args:
        new: finished folder, on the same file system as `path`.
        path: destination of the folder.
        old: unused path for the existing folder, on the same file system.

    Raises:
        OSError: `new` cannot be moved; the existing folder, if any, is still at `path`.
    """
    if not path.exists():
        try:
            new.rename(path)
        except OSError:  # another process may have just created a folder at this path
            if not path.exists():
                raise
        else:
            return
    if exchange(new, path):
        return
    try:
        path.rename(old)
        new.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two files or folders in one step, with Linux's `renameat2`.

    Args:
        first: path of the first file or folder, which must exist.
        second: path of the second file or folder, which must exist, on the same file system.

    Returns:
        Whether the two were exchanged. An exchange is possible only on Linux, and only on some file systems.

    Raises:
        OSError: one of the paths is missing or cannot be renamed.
    """
    if sys.platform != "linux" or (rename := getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)) is None:
        return False
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(second))
