"""The Open Inference Protocol v2 over HTTP as an ASGI application.

Needs the extra `serve`: import `create_app` from `mmguard.guard.serving.server`, which says so where it is missing.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from anyio import CapacityLimiter, Semaphore, move_on_after, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mmguard import __version__
from mmguard.errors import (
    InferenceError,
    InputError,
    LogitsError,
    OptionError,
    OverloadError,
    RequestTooLargeError,
    SlowRequestError,
)
from mmguard.guard.guard import Guard, GuardedBatch
from mmguard.guard.lanes import MAX_PENDING, MAX_WAIT
from mmguard.guard.serving.body import MAX_JSON_BYTES, MAX_REQUEST_BYTES, decompress
from mmguard.guard.serving.drain import DrainMiddleware
from mmguard.guard.serving.protocol import VERSION, encode_response, model_metadata, output_names, served_outputs
from mmguard.guard.serving.reading import read_body
from mmguard.guard.serving.request import InferenceRequest, parse_request
from mmguard.guard.serving.room import CLASS_BYTES, MAX_HELD_BODIES, MAX_HELD_BYTES, ROW_BYTES, Hold, Room
from mmguard.guard.serving.tensors import HEADER_LENGTH

LARGE = 2**20
"""Bytes of a body above which it waits for its turn to be read, as all do that are compressed: many at once would take
the memory and the time of all that is small."""
MAX_ANSWERING = MAX_PENDING
"""Requests that are with the guards at once, each in a thread: as many as one guard lets in."""


def create_app(
    guards: Mapping[str, Guard],
    max_request_bytes: int = MAX_REQUEST_BYTES,
    max_json_bytes: int = MAX_JSON_BYTES,
    max_held_bytes: int | None = None,
) -> Starlette:
    """The protocol as an ASGI application.

    Args:
        guards: by the name in the URL. They stay the caller's to close.
        max_request_bytes: largest body, also after decompression; a larger one is answered 413.
        max_json_bytes: of which JSON.
        max_held_bytes: of all bodies, inputs and answers together, by default a GiB, or eight of the largest bodies. A
            request for which there is no room now is answered 503, one for which there never is 413.

    Raises:
        OptionError: a limit below 1.
    """
    if max_held_bytes is None:
        max_held_bytes = max(MAX_HELD_BYTES, MAX_HELD_BODIES * max_request_bytes)
    if min(max_request_bytes, max_json_bytes, max_held_bytes) < 1:
        given = f"{max_request_bytes}, {max_json_bytes} of JSON and {max_held_bytes} in all"
        raise OptionError(f"limits must be at least 1 byte, got {given}")
    models = _Models(guards, max_request_bytes, min(max_json_bytes, max_request_bytes), max_held_bytes)
    routes = [
        Route("/v2", _server_metadata),
        Route("/v2/health/live", _live),
        Route("/v2/health/ready", _ready),
    ]
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(path, models.metadata),
            Route(f"{path}/ready", models.ready),
            Route(f"{path}/infer", models.infer, methods=["POST"]),
        ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(DrainMiddleware),
            Middleware(GZipMiddleware, minimum_size=1024, compresslevel=1),
        ],
        exception_handlers={
            HTTPException: _on_http_error,
            InputError: _on_error(400),
            RequestTooLargeError: _on_error(413),
            SlowRequestError: _on_error(408),
            InferenceError: _on_error(500),
            LogitsError: _on_error(422),
            OverloadError: _on_overload,
            ClientDisconnect: _on_error(400),
            Exception: _on_defect,
        },
    )
    app.router.redirect_slashes = False
    return app


class _Models:
    """The routes below `/v2/models`."""

    def __init__(
        self, guards: Mapping[str, Guard], max_request_bytes: int, max_json_bytes: int, max_held_bytes: int
    ) -> None:
        self._guards = dict(guards)
        self._served = {
            name: served_outputs(guard.networks.original.session, guard.bundle.manifest.output.names)
            for name, guard in guards.items()
        }
        self._metadata = {
            name: model_metadata(guard.bundle.manifest, self._served[name]) | {"name": name}
            for name, guard in guards.items()
        }
        self._max_request_bytes = max_request_bytes
        self._max_json_bytes = max_json_bytes
        self._room = Room(max_held_bytes)
        self._large_one_at_a_time = CapacityLimiter(1)
        self._turns, self._threads = Semaphore(MAX_ANSWERING), CapacityLimiter(MAX_ANSWERING)

    async def metadata(self, request: Request) -> Response:
        self._guard(request)
        return JSONResponse(self._metadata[request.path_params["name"]])

    async def ready(self, request: Request) -> Response:
        self._guard(request)
        return JSONResponse({"name": request.path_params["name"], "ready": True})

    async def infer(self, request: Request) -> Response:
        guard = self._guard(request)
        with self._room.place() as hold:
            with _counted(guard):
                asked = await self._read(request, guard, hold)
                hold(_size(asked, guard))
                await self._wait_for_turn()
            name = request.path_params["name"]
            try:
                return await to_thread.run_sync(self._answer, name, guard, asked, limiter=self._threads)
            finally:
                self._turns.release()

    async def _wait_for_turn(self) -> None:
        with move_on_after(MAX_WAIT) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise OverloadError(
                f"{MAX_ANSWERING} requests wait for their answers, and this one had no turn for {MAX_WAIT:g} s; send "
                "fewer at once, or serve from more machines"
            )

    async def _read(self, request: Request, guard: Guard, hold: Hold) -> InferenceRequest:
        """What a client asks. All that takes time is done off the event loop."""
        limit = self._max_request_bytes if HEADER_LENGTH in request.headers else self._max_json_bytes
        body = await read_body(request, limit, hold)
        is_large = len(body) > LARGE or "content-encoding" in request.headers
        limiter = self._large_one_at_a_time if is_large else None
        return await to_thread.run_sync(self._parse, request, guard, body, limit, limiter=limiter)

    def _parse(self, request: Request, guard: Guard, body: bytearray, limit: int) -> InferenceRequest:
        plain = decompress(body, request.headers.get("content-encoding", "identity"), limit)
        outputs = output_names(self._served[request.path_params["name"]])
        length, spec = request.headers.get(HEADER_LENGTH), guard.bundle.manifest.input
        return parse_request(plain, length, spec, outputs, self._max_json_bytes)

    def _answer(self, name: str, guard: Guard, asked: InferenceRequest) -> Response:
        content, headers = encode_response(name, asked, _outputs(guard.infer(asked.x)))
        return Response(content, headers=headers)

    def _guard(self, request: Request) -> Guard:
        """The guard of the URL's model and version."""
        name, version = request.path_params["name"], request.path_params.get("version", VERSION)
        if name not in self._guards:
            raise HTTPException(404, f"unknown model; this server has {', '.join(self._guards)}")
        if version != VERSION:
            raise HTTPException(404, f"unknown version of {name}; it has version {VERSION} only")
        return self._guards[name]


@contextmanager
def _counted(guard: Guard) -> Iterator[None]:
    """Count what is refused before the guard sees it."""
    try:
        yield
    except (InputError, OverloadError) as error:
        guard.count_error("input" if isinstance(error, InputError) else "overload")
        raise


def _size(asked: InferenceRequest, guard: Guard) -> int:
    """Bytes of a request's input, and at most of its answer."""
    numbers = len(guard.bundle.manifest.classes) * len(guard.bundle.manifest.output.names)
    return asked.x.nbytes + len(asked.x) * (ROW_BYTES + CLASS_BYTES * numbers)


def _outputs(batch: GuardedBatch) -> dict[str, Any]:
    """All that a model answers, by the names of `output_names`."""
    decision = batch.decision
    return {
        **batch.outputs,
        "mmguard_label": decision.labels,
        "mmguard_original_label": decision.original_labels,
        "mmguard_flagged": decision.flagged,
        "mmguard_p_value": decision.p_values,
        "mmguard_margin_gap": decision.margin_gaps,
        "mmguard_reason": decision.reasons,
    }


async def _server_metadata(request: Request) -> Response:
    return JSONResponse({"name": "mmguard", "version": __version__, "extensions": ["binary_tensor_data"]})


async def _live(request: Request) -> Response:
    return JSONResponse({"live": True})


async def _ready(request: Request) -> Response:
    return JSONResponse({"ready": True})


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _on_error(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def respond(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return respond


async def _on_overload(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})


async def _on_defect(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; the server's log says more"}, 500)
