"""The Open Inference Protocol v2 over HTTP as an ASGI application.

Requires the extra `serve`. Import `create_app` from `mmguard.guard.serving.server`. If the extra is not installed,
importing that module raises an error that names the extra.
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
    OverloadError,
    RequestTooLargeError,
    SlowRequestError,
)
from mmguard.guard.guard import Guard, GuardedBatch
from mmguard.guard.lanes import MAX_PENDING, MAX_WAIT
from mmguard.guard.serving.body_drain import BodyDrainMiddleware
from mmguard.guard.serving.body_reader import read_body
from mmguard.guard.serving.decompression import decompress
from mmguard.guard.serving.memory_budget import (
    RESPONSE_CLASS_BYTES,
    RESPONSE_ROW_BYTES,
    MemoryBudget,
    Reservation,
)
from mmguard.guard.serving.options import RequestLimits
from mmguard.guard.serving.protocol import VERSION, encode_response, model_metadata, output_names, served_outputs
from mmguard.guard.serving.request import InferenceRequest, parse_request
from mmguard.guard.serving.tensors import HEADER_LENGTH

LARGE_BODY_BYTES = 2**20
"""Request bodies larger than this many bytes are parsed one at a time, to leave time and memory for small requests.

Compressed bodies are parsed one at a time regardless of their size.
"""
MAX_CONCURRENT = MAX_PENDING
"""Maximum number of requests that the guards process at once, each in its own thread.

A single guard has the same limit.
"""


def create_app(guards: Mapping[str, Guard], limits: RequestLimits | None = None) -> Starlette:
    """Return an ASGI application that serves guards.

    Args:
        guards: the guards, keyed by the model name in the URL. The caller must close the guards.
        limits: limits on the size of requests; None means the defaults.

    Returns:
        The application.
    """
    models = _Models(guards, limits or RequestLimits())
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
            Middleware(BodyDrainMiddleware),
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
            Exception: _on_unexpected_error,
        },
    )
    app.router.redirect_slashes = False
    return app


class _Models:
    """Handles the routes under `/v2/models`."""

    def __init__(self, guards: Mapping[str, Guard], limits: RequestLimits) -> None:
        self._guards = dict(guards)
        self._served = {
            name: served_outputs(guard.networks.original.session, guard.bundle.manifest.output.names)
            for name, guard in guards.items()
        }
        self._metadata = {
            name: model_metadata(guard.bundle.manifest, self._served[name]) | {"name": name}
            for name, guard in guards.items()
        }
        self._max_request_bytes = limits.max_request_bytes
        self._max_json_bytes = min(limits.max_json_bytes, limits.max_request_bytes)
        self._memory = MemoryBudget(limits.buffered_bytes)
        self._one_large_body = CapacityLimiter(1)
        self._turns, self._threads = Semaphore(MAX_CONCURRENT), CapacityLimiter(MAX_CONCURRENT)

    async def metadata(self, request: Request) -> Response:
        self._guard(request)
        return JSONResponse(self._metadata[request.path_params["name"]])

    async def ready(self, request: Request) -> Response:
        self._guard(request)
        return JSONResponse({"name": request.path_params["name"], "ready": True})

    async def infer(self, request: Request) -> Response:
        guard = self._guard(request)
        with self._memory.reserve() as reservation:
            with _count_errors(guard):
                parsed = await self._read(request, guard, reservation)
                reservation.resize(_needed_bytes(parsed, guard))
                await self._wait_for_turn()
            name = request.path_params["name"]
            try:
                return await to_thread.run_sync(self._respond, name, guard, parsed, limiter=self._threads)
            finally:
                self._turns.release()

    async def _wait_for_turn(self) -> None:
        with move_on_after(MAX_WAIT) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise OverloadError(
                f"the server is busy: this request waited {MAX_WAIT:g} s because {MAX_CONCURRENT} other requests "
                "were in progress; retry later, send fewer requests at once, or add servers"
            )

    async def _read(self, request: Request, guard: Guard, reservation: Reservation) -> InferenceRequest:
        """Read and parse a request. The parsing runs in a thread, not on the event loop."""
        limit = self._max_request_bytes if HEADER_LENGTH in request.headers else self._max_json_bytes
        body = await read_body(request, limit, reservation)
        is_large = len(body) > LARGE_BODY_BYTES or "content-encoding" in request.headers
        limiter = self._one_large_body if is_large else None
        return await to_thread.run_sync(self._parse, request, guard, body, limit, limiter=limiter)

    def _parse(self, request: Request, guard: Guard, body: bytearray, limit: int) -> InferenceRequest:
        plain = decompress(body, request.headers.get("content-encoding", "identity"), limit)
        outputs = output_names(self._served[request.path_params["name"]])
        length, spec = request.headers.get(HEADER_LENGTH), guard.bundle.manifest.input
        return parse_request(plain, length, spec, outputs, self._max_json_bytes)

    def _respond(self, name: str, guard: Guard, parsed: InferenceRequest) -> Response:
        content, headers = encode_response(name, parsed, _outputs(guard.infer(parsed.x)))
        return Response(content, headers=headers)

    def _guard(self, request: Request) -> Guard:
        """Return the guard for the model and version in the URL."""
        name, version = request.path_params["name"], request.path_params.get("version", VERSION)
        if name not in self._guards:
            raise HTTPException(404, f"unknown model; available models: {', '.join(self._guards)}")
        if version != VERSION:
            raise HTTPException(404, f"unknown version of model {name}; use version {VERSION}")
        return self._guards[name]


@contextmanager
def _count_errors(guard: Guard) -> Iterator[None]:
    """Count the requests that fail before they reach the guard."""
    try:
        yield
    except (InputError, OverloadError) as error:
        guard.count_error("input" if isinstance(error, InputError) else "overload")
        raise


def _needed_bytes(parsed: InferenceRequest, guard: Guard) -> int:
    """Return the size of a request's input plus an upper bound on the size of its response, in bytes."""
    numbers = len(guard.bundle.manifest.classes) * len(guard.bundle.manifest.output.names)
    return parsed.x.nbytes + len(parsed.x) * (RESPONSE_ROW_BYTES + RESPONSE_CLASS_BYTES * numbers)


def _outputs(batch: GuardedBatch) -> dict[str, Any]:
    """Return all outputs of a batch, keyed by the names that `output_names` returns."""
    decision = batch.decision
    return {
        **batch.outputs,
        "mmguard_label": decision.labels,
        "mmguard_original_label": decision.original_labels,
        "mmguard_flagged": decision.flagged,
        "mmguard_p_value": decision.p_values,
        "mmguard_margin_gap": decision.margin_gaps,
        "mmguard_reason": decision.reasons,
        "mmguard_confidence": decision.confidences,
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


async def _on_unexpected_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; see the server log"}, 500)
