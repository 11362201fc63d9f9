"""ASGI middleware that reads the rest of a request body before the response is sent."""

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_DRAIN_BYTES = 2**30
MAX_DRAIN_SECONDS = 30
"""Limits on reading the rest of a body, in bytes and in seconds.

If a limit is reached before the end of the body, the server closes the connection after the response.
"""
CLOSE = (b"connection", b"close")


class BodyDrainMiddleware:
    """Reads the rest of a request body before the response is sent.

    Many clients send the whole body before they read the response. If the server responded and closed the connection
    before reading the whole body, these clients would see a broken pipe instead of the response.

    Args:
        app: the application behind the middleware.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Run the application on one connection.

        Args:
            scope: the ASGI connection scope.
            receive: returns the next part of the request.
            send: sends the next part of the response.
        """
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = _Body(scope, receive)

        async def send_after_drain(message: "Message") -> None:
            if message["type"] == "http.response.start" and body.unread:
                await body.drain()
                if body.unread:
                    message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        await self._app(scope, body.receive, send_after_drain)


class _Body:
    """Receives a request body and keeps track of whether part of the body is still unread."""

    def __init__(self, scope: "Scope", receive: "Receive") -> None:
        headers = dict(scope["headers"])
        self.unread = b"content-length" in headers or b"transfer-encoding" in headers
        self._awaits_continue = headers.get(b"expect", b"").lower() == b"100-continue"
        self._receive = receive

    async def receive(self) -> "Message":
        """Return the next part of the body.

        The first call sends `100 Continue` if the client is waiting for this status.
        """
        message = await self._receive()
        self.unread, self._awaits_continue = message.get("more_body", False), False
        return message

    async def drain(self) -> None:
        """Read and discard the rest of the body.

        Nothing is read if the client is still waiting for `100 Continue`, because the client has not sent the body yet.
        """
        discarded = 0
        with anyio.move_on_after(MAX_DRAIN_SECONDS):
            while self.unread and not self._awaits_continue and discarded < MAX_DRAIN_BYTES:
                discarded += len((await self.receive()).get("body", b""))
