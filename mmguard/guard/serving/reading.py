"""Reading the body of an HTTP request, no longer and no further than it may take."""

from typing import TYPE_CHECKING

from anyio import move_on_after

from mmguard.errors import SlowRequestError
from mmguard.guard.serving.body import too_large
from mmguard.guard.serving.room import Hold

if TYPE_CHECKING:
    from starlette.requests import Request

PATIENCE_SECONDS = 30
"""How long a body may take, and for each `SLOWEST` bytes that came a second more."""
SLOWEST = 2**16


async def read_body(request: "Request", limit: int, hold: Hold) -> bytearray:
    """Read a request's body.

    Args:
        hold: is told of all the bytes that came so far.

    Raises:
        RequestTooLargeError: it is longer than `limit` bytes; then no more than that is kept.
        SlowRequestError: it comes so slowly that it only keeps room from others.
        OverloadError: other requests hold too much.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large(limit)
    body = bytearray()
    with move_on_after(PATIENCE_SECONDS) as patience:
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit:
                raise too_large(limit)
            hold(len(body) + len(chunk))
            body += chunk
            patience.deadline += len(chunk) / SLOWEST
        return body
    raise SlowRequestError(
        f"{len(body)} bytes of the body came in more than {PATIENCE_SECONDS} s, and the others did not; send it faster"
    )
