"""Folders that a process writes to for a while, and how another process tells that the first has died.

The writer holds an advisory lock on the folder itself, which the system drops when the process ends, however it ends.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks, and no file descriptors of folders
    fcntl = None  # type: ignore[assignment]

FORGOTTEN = 24 * 3600.0
"""Seconds without a change after which a folder counts as abandoned where the file system has no locks."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, as far as the file system has locks.

    Raises:
        FileNotFoundError: it is gone.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # network file systems may have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def abandoned(folder: Path) -> Iterator[bool]:
    """Whether no process holds a folder any more; where none does, none can while the context lasts.

    Raises:
        OSError: it cannot be opened.
    """
    if fcntl is None:
        yield _forgotten(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:
            free = _forgotten(folder)
        yield free
    finally:
        os.close(descriptor)


def _forgotten(folder: Path) -> bool:
    return time.time() - folder.stat().st_mtime > FORGOTTEN
