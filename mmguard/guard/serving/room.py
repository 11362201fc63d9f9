"""Memory that the requests of a server may hold, all of them together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmguard.errors import OverloadError, RequestTooLargeError

MAX_HELD_BYTES = 2**30
"""Default limit of the bodies, inputs and answers of all requests together, or so many of the largest bodies."""
MAX_HELD_BODIES = 8
ROW_BYTES, CLASS_BYTES = 2**8, 2**5
"""Memory that it takes at most to answer for an input, and besides for each class in each output, JSON included."""

Hold = Callable[[int], None]
"""Says how many bytes a request holds now. Raises OverloadError where there is no room for them now, and
RequestTooLargeError where there never is."""


class Room:
    """Counts what requests hold. Of one event loop: not safe to call from several threads.

    Args:
        size: bytes that they may hold together.
    """

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    @contextmanager
    def place(self) -> Iterator[Hold]:
        """Room for one request, which gives it back when it ends."""
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if size > self._size:
                raise RequestTooLargeError(
                    f"this request and its answer take {size} bytes, and all requests together may hold {self._size}; "
                    "split the batch"
                )
            if size - held > self._left:
                raise OverloadError(
                    f"all requests together may hold {self._size} bytes, and there is no room for this one; try again, "
                    "send less at once, or serve from more machines"
                )
            self._left -= size - held
            held = size

        try:
            yield hold
        finally:
            self._left += held
