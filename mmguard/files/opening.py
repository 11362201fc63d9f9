"""Open files from untrusted folders without blocking on a pipe or a device."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes. The call never blocks, not even on a pipe.

    Args:
        path: file to open; links are followed.

    Returns:
        The open file.

    Raises:
        OSError: the file cannot be opened, or `path` is a pipe, a socket, a device or a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if problem := why_not_a_file(os.fstat(descriptor).st_mode):
            raise OSError(problem)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def why_not_a_file(mode: int) -> str:
    """Return the reason why a path with the given mode is not a regular file.

    Args:
        mode: `st_mode` of the path, as returned by `os.stat`.

    Returns:
        The reason, such as "a pipe, not a file"; empty for a regular file.

    Example:
        >>> why_not_a_file(stat.S_IFIFO | 0o644)
        'a pipe, not a file'
        >>> why_not_a_file(stat.S_IFREG | 0o644)
        ''
    """
    return "" if stat.S_ISREG(mode) else f"{KINDS.get(stat.S_IFMT(mode), 'something of an unknown type')}, not a file"
