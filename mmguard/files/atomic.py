"""Files and folders that are written aside and then put in place, and the sweeping of what a killed process left.

What is to become `NAME` is written inside `.NAME.XXXXXXXX.partial`, a folder beside it that only its owner may read.
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
"""Inside the folder: what is to be put in place, and what was there before, where the two cannot be exchanged."""

AT_FDCWD, RENAME_EXCHANGE = -100, 2
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""What the system answers where it, or the file system, cannot exchange."""


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` that vanishes at the end, whatever happens; `sweep` removes what a kill leaves.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with suppress(FileNotFoundError):
                stack.enter_context(held(folder))
            if folder.exists():  # another process may have swept it before it was held
                yield folder
                return


def sweep(path: Path) -> None:
    """Remove the folders beside `path` that killed processes left. Those of living ones stay.

    A process that was killed while it put a folder in place may have left none at `path`: then the older one returns.
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
    """Let the folder `new` become `path`. A folder that is there already is exchanged for it in one step.

    Where the file system cannot exchange, the older one is moved to `old` first, and back where anything, an
    interruption too, comes in between.

    Raises:
        OSError: it cannot be done; the older folder is where it was.
    """
    if not path.exists():
        try:
            new.rename(path)
        except OSError:  # another process may have put a folder there just now
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
    """Exchange what two paths of one file system name, in one step.

    Returns:
        Whether it was done: only Linux can, and not on every file system.

    Raises:
        OSError: one of them is missing, or may not be renamed.
    """
    if sys.platform != "linux" or (rename := getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)) is None:
        return False
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(second))
