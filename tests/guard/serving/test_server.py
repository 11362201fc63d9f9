import signal
import socket
import socketserver
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from mmguard.errors import MissingExtraError, ServeError, TamperedBundleError
from mmguard.guard.serving.server import ServerOptions, listen, metrics_server, open_guards, serve
from tests.bundles import clean_inputs, write_tiny_bundle
from tests.guard.serving.servers import DEADLINE, request_of, running


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_until_a_signal_and_ends_cleanly(tiny_bundle: Path, stop: signal.Signals) -> None:
    code = (
        "import sys; from mmguard.guard.serving.server import ServerOptions, serve\n"
        "def say(*urls): print(*urls, flush=True)\n"
        "serve(sys.argv[1:], ServerOptions(port=0, metrics_port=0), threads=1, on_ready=say); print('closed')"
    )
    command = [sys.executable, "-c", code, str(tiny_bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, metrics_url = process.stdout.readline().split()
        # The port is bound already; the request waits until the server takes it.
        assert httpx.get(f"{url}/health/ready", timeout=DEADLINE).json() == {"ready": True}
        assert httpx.post(f"{url}/models/tiny/infer", json=request_of(clean_inputs(3))).status_code == 200
        text = httpx.get(metrics_url).text
        assert 'mmguard_inputs_total{model="tiny"} 3.0' in text
        assert "python_info" in text
        process.send_signal(stop)
        rest, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, rest, errors) == (0, "closed\n", "")


def test_a_taken_port_is_refused(tiny_bundle: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match="--port"):
            serve([tiny_bundle], ServerOptions(port=port, metrics_port=0), threads=1)
        with pytest.raises(ServeError, match="--metrics-port"):
            serve([tiny_bundle], ServerOptions(port=0, metrics_port=port), threads=1)


@pytest.mark.parametrize(("host", "port"), [("no such host", 0), ("127.0.0.1", 70_000), ("203.0.113.1", 0)])
def test_an_address_that_cannot_be_had_is_refused(host: str, port: int) -> None:
    with pytest.raises(ServeError, match=r"cannot listen|65535"):
        listen(host, port)
    with (
        pytest.raises(ServeError, match=r"cannot serve metrics|65535"),
        metrics_server(host, port, CollectorRegistry()),
    ):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_part_of_an_answer_waits_for_an_acknowledgement(
    tiny_bundle: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scraped: list[int] = []
    take = socketserver.TCPServer.get_request

    def get_request(server: socketserver.TCPServer) -> Any:
        connection, address = take(server)
        scraped.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return connection, address

    monkeypatch.setattr(socketserver.TCPServer, "get_request", get_request)
    with running(tiny_bundle, host=host) as served, httpx.Client() as client:
        assert client.get(f"http://{served.address}/v2/health/live").json() == {"live": True}
        (connection,) = served.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.get(f"http://{served.metrics_address}/metrics").status_code == 200
    assert scraped == [1]


def test_bundles_of_one_name_or_none_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other.mmguard", "other", seed=1)
    with ExitStack() as stack:
        guards = open_guards([tiny_bundle, other], stack, registry=CollectorRegistry(), threads=1)
        assert list(guards) == ["tiny", "other"]
    with ExitStack() as stack, pytest.raises(ServeError, match="both named 'tiny'"):
        open_guards([tiny_bundle, tiny_bundle], stack, registry=CollectorRegistry(), threads=1)
    with ExitStack() as stack, pytest.raises(ServeError, match="no bundle"):
        open_guards([], stack)


def test_a_changed_bundle_is_not_served(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.mmguard")
    (bundle / "clipped.onnx").unlink()
    with pytest.raises(TamperedBundleError, match=r"clipped\.onnx"):
        serve([bundle], ServerOptions(port=0, metrics_port=0))


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    hidden = (package, "mmguard.guard.serving.app", "mmguard.guard.serving.server")
    for name in [name for name in sys.modules if name in hidden or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"in your clone of mmguard, run pip install '.\[serve\]'"):
        __import__("mmguard.guard.serving.server")
