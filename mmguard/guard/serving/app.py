"""The Open Inference Protocol v2 over HTTP as an ASGI application.

Needs the extra `serve`: import `create_app` from `mmguard.guard.serving.server`, which says so where it is missing.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mmguard import __version__
from mmguard.errors import InferenceError, InputError, RequestTooLargeError
from mmguard.guard.guard import Guard, GuardedBatch
from mmguard.guard.serving.body import MAX_REQUEST_BYTES, decompress, read_body
from mmguard.guard.serving.protocol import (
    VERSION,
    encode_response,
    model_metadata,
    output_names,
    parse_request,
    served_outputs,
)
from mmguard.guard.serving.tensors import HEADER_LENGTH


def create_app(guards: Mapping[str, Guard], max_request_bytes: int = MAX_REQUEST_BYTES) -> Starlette:
    """The protocol as an ASGI application.

    Args:
        guards: by the name in the URL. They stay the caller's to close.
        max_request_bytes: largest body, also after decompression; a larger one is answered 413.
    """
    models = _Models(guards, max_request_bytes)
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
    return Starlette(
        routes=routes,
        middleware=[Middleware(GZipMiddleware, minimum_size=1024, compresslevel=1)],
        exception_handlers={
            HTTPException: _on_http_error,
            InputError: _on_error(400),
            RequestTooLargeError: _on_error(413),
            InferenceError: _on_error(500),
            ClientDisconnect: _on_error(400),
            Exception: _on_defect,
        },
    )


class _Models:
    """The routes below `/v2/models`."""

    def __init__(self, guards: Mapping[str, Guard], max_request_bytes: int) -> None:
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

    async def metadata(self, request: Request) -> Response:
        self._guard(request)
        return JSONResponse(self._metadata[request.path_params["name"]])

    async def ready(self, request: Request) -> Response:
        self._guard(request)
        return JSONResponse({"name": request.path_params["name"], "ready": True})

    async def infer(self, request: Request) -> Response:
        guard = self._guard(request)
        body = await read_body(request, self._max_request_bytes)
        return await run_in_threadpool(self._answer, guard, request, body)

    def _answer(self, guard: Guard, request: Request, body: bytes) -> Response:
        """All that takes time, off the event loop."""
        name, spec = request.path_params["name"], guard.bundle.manifest.input
        body = decompress(body, request.headers.get("content-encoding", "identity"), self._max_request_bytes)
        asked = parse_request(body, request.headers.get(HEADER_LENGTH), spec, output_names(self._served[name]))
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


async def _on_defect(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; the server's log says more"}, 500)
