"""Limits the total memory that all requests to a server may use."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmguard.errors import OverloadError, RequestTooLargeError

RESPONSE_ROW_BYTES, RESPONSE_CLASS_BYTES = 2**8, 2**5
"""Upper bounds on the size of a JSON response, in bytes.

The bound for one input is `RESPONSE_ROW_BYTES`, plus `RESPONSE_CLASS_BYTES` for each class of each output.
"""


class MemoryBudget:
    """A memory budget that all requests to a server share. It is not thread-safe: use it on one event loop only.

    Args:
        size: the memory that all requests together may use, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    @contextmanager
    def reserve(self) -> Iterator["Reservation"]:
        """Create a reservation of 0 bytes for one request, and release its memory when the context ends.

        Yields:
            The reservation. Call its `resize` whenever the request needs more or less memory.
        """
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            reservation.resize(0)

    def resize(self, before: int, after: int) -> None:
        """Change how much memory is reserved for one request.

        Args:
            before: bytes reserved for the request so far.
            after: bytes to reserve for the request from now on.

        Raises:
            OverloadError: Other requests currently use too much memory.
            RequestTooLargeError: The request needs more memory than the whole budget.
        """
        if after > self._size:
            raise RequestTooLargeError(
                f"the request and its response need {after} bytes of memory, but the limit for all requests together "
                f"is {self._size} bytes; split the batch"
            )
        if after - before > self._left:
            raise OverloadError(
                f"the server is out of memory for requests: all requests together may use at most {self._size} bytes; "
                "retry later, send fewer requests at once, or add servers"
            )
        self._left -= after - before


class Reservation:
    """One request's share of a `MemoryBudget`.

    Args:
        budget: the budget from which the memory is taken.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size = 0

    def resize(self, size: int) -> None:
        """Increase or decrease the size of the reservation.

        Args:
            size: bytes to reserve from now on.

        Raises:
            OverloadError: Other requests currently use too much memory. The reservation keeps its size.
            RequestTooLargeError: The request needs more memory than the whole budget.
        """
        self._budget.resize(self._size, size)
        self._size = size
