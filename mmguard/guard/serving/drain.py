"""Requests whose body is longer than what was read of it."""

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_BYTES = 2**30
DRAIN_SECONDS = 30
"""At most so much of what is left of a body is read."""
CLOSE = (b"connection", b"close")


class DrainMiddleware:
    """Reads what is left of a request's body before the answer goes out.

    Many clients send a whole body before they read. One that is answered and closed upon before meets a broken pipe,
    and never learns why.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Run the application; see the class."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = _Body(scope, receive)

        async def answer(message: "Message") -> None:
            if message["type"] == "http.response.start" and body.left:
                await body.drain()
                if body.left:
                    message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        await self._app(scope, body.receive, answer)


class _Body:
    """How much of a body is left to read."""

    def __init__(self, scope: "Scope", receive: "Receive") -> None:
        headers = dict(scope["headers"])
        self.left = b"content-length" in headers or b"transfer-encoding" in headers
        self._awaited = headers.get(b"expect", b"").lower() == b"100-continue"
        self._receive = receive

    async def receive(self) -> "Message":
        """The next part; asking for the first tells a client that waits for it to go on."""
        message = await self._receive()
        self.left, self._awaited = message.get("more_body", False), False
        return message

    async def drain(self) -> None:
        """Read and discard what is left, unless the client waits to be told before it sends anything."""
        forgotten = 0
        with anyio.move_on_after(DRAIN_SECONDS):
            while self.left and not self._awaited and forgotten < DRAIN_BYTES:
                forgotten += len((await self.receive()).get("body", b""))
