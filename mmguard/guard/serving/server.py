"""An HTTP server for guards, with Prometheus metrics on a separate port.

Requires the extra `serve`. The rest of mmguard imports this module only to serve bundles.
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
from mmguard.guard.serving.options import PORTS, RequestLimits, ServerOptions

try:
    import uvicorn
    from starlette.applications import Starlette

    from mmguard.guard.serving.app import create_app
except ModuleNotFoundError as error:
    raise MissingExtraError.of("serving", error.name, "serve") from error

__all__ = [
    "RequestLimits",
    "ServerOptions",
    "create_app",
    "listen",
    "make_server",
    "metrics_server",
    "open_guards",
    "serve",
]

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 30
"""After a stop signal, requests in flight have this many seconds to finish."""

OnReady = Callable[[str, str], None]


def serve(
    bundles: Sequence[str | Path],
    options: ServerOptions | None = None,
    *,
    policy: Policy | None = None,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    on_ready: OnReady | None = None,
) -> None:
    """Serve bundles until SIGTERM or Ctrl-C, then answer the requests in flight and return.

    Args:
        bundles: folders of the guard bundles. All bundles must have different names.
        options: the address and ports to listen on, and limits on the size of requests; None means the defaults.
        policy: what to do with flagged and untested inputs; see `Guard`.
        providers: execution providers in order of preference; see `Guard`.
        threads: number of intra-op threads of each network; see `Guard`.
        on_ready: called once both ports are bound, with the URL of the inference protocol and the URL of the metrics.

    Raises:
        ServeError: A port is already in use, `bundles` is empty, or two bundles have the same name.
        BundleError: A bundle cannot be read; see `Guard`.
        ProviderError: An execution provider is not available; see `Guard`.
    """
    options = options or ServerOptions()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    with ExitStack() as stack:
        guards = open_guards(bundles, stack, policy=policy, providers=providers, registry=registry, threads=threads)
        listener = stack.enter_context(closing(listen(options.host, options.port)))
        metrics_port = stack.enter_context(metrics_server(options.host, options.metrics_port, registry))
        url = _url(options.host, listener.getsockname()[1], "/v2")
        metrics_url = _url(options.host, metrics_port, "/metrics")
        logger.info("serving %s at %s, with metrics at %s", ", ".join(guards), url, metrics_url)
        if on_ready is not None:
            on_ready(url, metrics_url)
        with _survive_stop_signals():
            make_server(create_app(guards, options.limits)).run(sockets=[listener])


def open_guards(bundles: Sequence[str | Path], stack: ExitStack, **options: Any) -> dict[str, Guard]:
    """Open a guard for each bundle.

    Args:
        bundles: folders of guard bundles.
        stack: exit stack that will close the guards.
        options: options of `Guard`.

    Returns:
        The guards, keyed by bundle name.

    Raises:
        ServeError: `bundles` is empty, or two bundles have the same name.
        BundleError: A bundle cannot be read; see `Guard`.
        ProviderError: An execution provider is not available; see `Guard`.
    """
    guards: dict[str, Guard] = {}
    for path in bundles:
        guard = stack.enter_context(Guard(path, **options))
        name = guard.bundle.manifest.name
        if name in guards:
            raise ServeError(
                f"the bundles {guards[name].bundle.path} and {path} are both named {name!r}; recalibrate one of them "
                "with a different --name"
            )
        guards[name] = guard
    if not guards:
        raise ServeError("no bundle to serve; pass at least one bundle")
    return guards


def make_server(app: Starlette) -> uvicorn.Server:
    """Return a uvicorn server for an application.

    The server uses the logging configuration of the process. The server writes no access log, because the metrics
    already count requests.

    Args:
        app: the application.

    Returns:
        The server, which is not running yet.
    """
    return uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=SHUTDOWN_SECONDS)
    )


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket whose connections send every part of a response without delay (TCP_NODELAY).

    Without this option, a response whose headers and body are sent separately would wait 40 ms for the client's delayed
    acknowledgement.

    Args:
        host: address to listen on.
        port: port to listen on; 0 picks a free port.

    Returns:
        The socket.

    Raises:
        ServeError: The port is already in use or out of range, or `host` is not an address of this host.
    """
    _check_port(port)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error}; use a different --host or --port") from error
    # asyncio sets TCP_NODELAY only on sockets with proto=IPPROTO_TCP, which `create_server` does not set.
    return socket.socket(listener.family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach())


@contextmanager
def metrics_server(host: str, port: int, registry: CollectorRegistry) -> Iterator[int]:
    """Serve the metrics of a registry from a thread until the context ends.

    Args:
        host: address to listen on.
        port: port to listen on; 0 picks a free port.
        registry: the registry with the metrics to serve.

    Yields:
        The port on which the metrics are served.

    Raises:
        ServeError: The port is already in use or out of range, or `host` is not an address of this host.
    """
    _check_port(port)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ServeError(f"cannot serve metrics on {host}:{port}: {error}; use a different --metrics-port") from error
    server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _check_port(port: int) -> None:
    if port not in PORTS:
        raise ServeError(f"the port must be from 0 to 65535, got {port}; use 0 to pick a free port")


def _url(host: str, port: int, path: str) -> str:
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


@contextmanager
def _survive_stop_signals() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM until the context ends.

    After uvicorn has handled one of these signals and shut down, it raises the signal again. Without this context, the
    second signal would end the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
