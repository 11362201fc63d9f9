"""Resets objects after a fork: in the child process, other threads are gone, but locks that they held stay locked."""

import ctypes
import os
import threading
import weakref
from typing import Any, Protocol

COUNTING = threading.RLock()
"""Lock held while metrics change and while the process forks, so that no child process inherits a locked metric."""


class ForkAware(Protocol):
    """An object that can be reset after a fork."""

    def reset_after_fork(self) -> None:
        """Reset the object. Called in the forked process, before anything else runs there."""


_watched: "weakref.WeakSet[ForkAware]" = weakref.WeakSet()


def watch(thing: ForkAware) -> None:
    """Register an object to be reset in every process that is forked from now on, as long as the object exists.

    Args:
        thing: the object; only a weak reference to it is kept.
    """
    _watched.add(thing)


def abandon(thing: Any) -> None:
    """Keep an inherited object alive, because a session's destructor would wait for threads that no longer exist.

    Args:
        thing: the object; its reference count is raised permanently.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _reset_watched() -> None:
    COUNTING.release()
    for thing in list(_watched):
        thing.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=COUNTING.acquire, after_in_parent=COUNTING.release, after_in_child=_reset_watched)
