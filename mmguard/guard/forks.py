"""Objects that must begin anew in a forked process: threads, and locks held by other threads, do not survive a fork."""

import ctypes
import os
import threading
import weakref
from typing import Any, Protocol

COUNTING = threading.RLock()
"""Held while anything is counted, and by whoever forks: so no lock of a counter is ever inherited locked."""


class BeginsAnew(Protocol):
    """What can begin anew."""

    def begin_anew(self) -> None:
        """Called in the forked process, before anything else runs there."""


_watched: "weakref.WeakSet[BeginsAnew]" = weakref.WeakSet()


def watch(thing: BeginsAnew) -> None:
    """Let an object begin anew in every process that is forked from here on, as long as it lives."""
    _watched.add(thing)


def abandon(thing: Any) -> None:
    """Keep an inherited object for ever: the destructor of a session waits for threads that the fork did not copy."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _begin_anew() -> None:
    COUNTING.release()
    for thing in list(_watched):
        thing.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=COUNTING.acquire, after_in_parent=COUNTING.release, after_in_child=_begin_anew)
