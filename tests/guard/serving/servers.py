"""A real server in a thread, on free ports."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry

from mmguard.guard import Guard, Policy
from mmguard.guard.serving.options import MAX_REQUEST_BYTES, RequestLimits
from mmguard.guard.serving.server import create_app, listen, make_server, metrics_server
from mmguard.guard.sessions import NetworkOutput
from tests.bundles import Array

DEADLINE = 30
"""Seconds after which what a test waits for has failed."""


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds."""
    end = monotonic() + DEADLINE
    while not condition():
        assert monotonic() < end, "what the test waits for did not happen"
        Event().wait(0.01)


@dataclass(frozen=True)
class Served:
    """A running server: `host:port` of the protocol and of the metrics, and its guard."""

    address: str
    metrics_address: str
    guard: Guard
    server: uvicorn.Server

    def stop(self) -> None:
        """As a signal does."""
        self.server.should_exit = True


@contextmanager
def running(
    bundle: Path, policy: Policy | None = None, max_request_bytes: int = MAX_REQUEST_BYTES, host: str = "127.0.0.1"
) -> Iterator[Served]:
    """Serve one bundle on one thread a network, with its metrics."""
    registry = CollectorRegistry()
    with (
        Guard(bundle, policy=policy, registry=registry, threads=1) as guard,
        listen(host, 0) as listener,
        metrics_server(host, 0, registry) as metrics_port,
    ):
        port = listener.getsockname()[1]
        name = guard.bundle.manifest.name
        server = make_server(create_app({name: guard}, RequestLimits(max_request_bytes)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url_host = f"[{host}]" if ":" in host else host
        served = Served(f"{url_host}:{port}", f"{url_host}:{metrics_port}", guard, server)
        try:
            wait_until(lambda: server.started)
            yield served
        finally:
            served.stop()
            thread.join(DEADLINE)
        assert not thread.is_alive()


class Gate:
    """A network that does not answer until it is let."""

    def __init__(self, network: Callable[[Any], NetworkOutput]) -> None:
        self.entered, self.opened = Event(), Event()
        self._network = network

    def __call__(self, x: Any) -> NetworkOutput:
        self.entered.set()
        assert self.opened.wait(DEADLINE)
        return self._network(x)


def request_of(x: Array, **fields: Any) -> dict[str, Any]:
    """A request by JSON alone."""
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.tolist()}
    return {"inputs": [tensor], **fields}
