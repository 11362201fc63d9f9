"""Guards served over HTTP, and their counters on a port of their own.

Needs the extra `serve`; nothing else in mmguard imports this module before it is asked to serve.
"""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server

from mmguard.errors import MissingExtraError, ServeError
from mmguard.guard.guard import Guard
from mmguard.guard.policy import Policy
from mmguard.guard.serving.body import MAX_JSON_BYTES, MAX_REQUEST_BYTES

try:
    import uvicorn
    from starlette.applications import Starlette

    from mmguard.guard.serving.app import create_app
except ModuleNotFoundError as error:
    raise MissingExtraError.of("serving", error.name, "serve") from error

__all__ = ["create_app", "listen", "make_server", "metrics_server", "open_guards", "serve"]

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 30
"""How long requests that are being answered may take after a signal to stop."""

OnReady = Callable[[str, str], None]


def serve(
    bundles: Sequence[str | Path],
    host: str = "127.0.0.1",
    port: int = 8080,
    metrics_port: int = 9464,
    policy: Policy | None = None,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    on_ready: OnReady | None = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    max_json_bytes: int = MAX_JSON_BYTES,
) -> None:
    """Serve bundles until SIGTERM or Ctrl-C; requests in flight are answered first.

    Args:
        bundles: folders of guard bundles, of different names.
        host: address to listen on, for both ports.
        port, metrics_port: 0 takes a free one.
        policy, providers, threads: see `Guard`.
        on_ready: called with the URL of the protocol and that of the metrics once both ports are bound.
        max_request_bytes, max_json_bytes: see `create_app`.

    Raises:
        ServeError: a port is taken, no bundle, or two of the same name.
        BundleError, ProviderError: as `Guard` raises them.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    with ExitStack() as stack:
        guards = open_guards(bundles, stack, policy=policy, providers=providers, registry=registry, threads=threads)
        listener = stack.enter_context(closing(listen(host, port)))
        metrics_port = stack.enter_context(metrics_server(host, metrics_port, registry))
        urls = _url(host, listener.getsockname()[1], "/v2"), _url(host, metrics_port, "/metrics")
        logger.info("serving %s on %s, metrics on %s", ", ".join(guards), *urls)
        if on_ready is not None:
            on_ready(*urls)
        with _outlived_signals():
            make_server(create_app(guards, max_request_bytes, max_json_bytes)).run(sockets=[listener])


def open_guards(bundles: Sequence[str | Path], stack: ExitStack, **options: Any) -> dict[str, Guard]:
    """Open bundles by name; the stack closes them.

    Args:
        options: `Guard`'s own.

    Raises:
        ServeError: there are none, or two have the same name.
        BundleError, ProviderError: as `Guard` raises them.
    """
    guards: dict[str, Guard] = {}
    for path in bundles:
        guard = stack.enter_context(Guard(path, **options))
        name = guard.bundle.manifest.name
        if name in guards:
            raise ServeError(
                f"{guards[name].bundle.path} and {path} are both named {name!r}; calibrate one with another --name"
            )
        guards[name] = guard
    if not guards:
        raise ServeError("no bundle to serve; name at least one")
    return guards


def make_server(app: Starlette) -> uvicorn.Server:
    """A uvicorn server that logs through the process's own logging, and no line a request: the metrics count them."""
    return uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=SHUTDOWN_SECONDS)
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, whose connections send each part of an answer at once (TCP_NODELAY).

    Otherwise an answer whose headers and body go out apart waits for the client's delayed acknowledgement, 40 ms.

    Raises:
        ServeError: the address cannot be had.
    """
    _check_port(port)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from error
    # asyncio sets the option on connections that are of TCP by name, which those of `create_server` are not.
    return socket.socket(listener.family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach())


@contextmanager
def metrics_server(host: str, port: int, registry: CollectorRegistry) -> Iterator[int]:
    """Serve a registry's metrics in a thread; gives the port.

    Raises:
        ServeError: the address cannot be had.
    """
    _check_port(port)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ServeError(f"cannot serve metrics on {host}:{port}: {error}; choose another --metrics-port") from error
    server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _check_port(port: int) -> None:
    if not 0 <= port < 2**16:
        raise ServeError(f"a port is a number from 0 to 65535, got {port}")


def _url(host: str, port: int, path: str) -> str:
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


@contextmanager
def _outlived_signals() -> Iterator[None]:
    """Let what follows uvicorn run: once it has shut down, it raises the signal that stopped it anew."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
