"""Reads HTTP request bodies, with limits on size, memory and time."""

from typing import TYPE_CHECKING

from anyio import move_on_after

from mmguard.errors import SlowRequestError
from mmguard.guard.serving.memory_budget import Reservation
from mmguard.guard.serving.options import check_size

if TYPE_CHECKING:
    from starlette.requests import Request

TIMEOUT_SECONDS = 30
"""Time limit for receiving a whole body, in seconds.

The limit is extended by one second for every `MIN_BYTES_PER_SECOND` bytes received.
"""
MIN_BYTES_PER_SECOND = 2**16


async def read_body(request: "Request", limit: int, reservation: Reservation) -> bytearray:
    """Read the body of a request.

    Args:
        request: the request.
        limit: maximum size of the body, in bytes.
        reservation: the memory reserved for the request. It grows with the number of bytes received.

    Returns:
        The body as received, still compressed.

    Raises:
        RequestTooLargeError: The body is longer than `limit` bytes. At most `limit` bytes of the body are kept in
            memory.
        SlowRequestError: The body did not arrive within the time limit. The memory of the request is freed for other
            requests.
        OverloadError: Other requests currently use too much memory.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        check_size(int(declared[:20]), limit)
    body = bytearray()
    with move_on_after(TIMEOUT_SECONDS) as timeout:
        async for chunk in request.stream():
            check_size(len(body) + len(chunk), limit)
            reservation.resize(len(body) + len(chunk))
            body += chunk
            timeout.deadline += len(chunk) / MIN_BYTES_PER_SECOND
        return body
    raise SlowRequestError(
        f"the request body timed out: after more than {TIMEOUT_SECONDS} s, only {len(body)} bytes had arrived; send at "
        f"least {MIN_BYTES_PER_SECOND} bytes per second"
    )
