"""Check whether the process that was writing to a folder is still running.

The writer holds an advisory lock on the folder itself. The operating system releases the lock when the process ends,
even if the process is killed.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has neither these locks nor file descriptors for folders
    fcntl = None  # type: ignore[assignment]

FORGOTTEN = 24 * 3600.0
"""Number of seconds without a change after which a folder counts as abandoned if the file system has no locks."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder for the duration of the context, or do nothing if the file system has no locks.

    Args:
        folder: folder that this process writes to.

    Yields:
        None, while the lock is held.

    Raises:
        FileNotFoundError: the folder no longer exists.
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
    """Check whether a folder is abandoned. A folder is abandoned if no running process holds its lock.

    If the folder is abandoned, no other process can take the lock within the context.

    Args:
        folder: folder that another process may be writing to.

    Yields:
        Whether the folder is abandoned. If the file system has no locks, a folder that has not changed for a day counts
            as abandoned.

    Raises:
        OSError: the folder cannot be opened.
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
