"""Measure the server's latency on a persistent connection, and of its health check under hostile requests.

    python -m benchmarks.serving                    # writes results/serving/latency.json
    python -m benchmarks.serving BUNDLE --out FILE

Without a bundle, the tiny one of the tests is served. The server and the hostile clients run in separate processes.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import urllib3

from benchmarks.environment import environment
from benchmarks.record import RESULTS, Record, write_json
from mmguard.bundle.bundle import Bundle
from mmguard.guard.serving.options import MAX_JSON_BYTES, MAX_REQUEST_BYTES
from mmguard.guard.serving.tensors import HEADER_LENGTH, INPUTS

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "numpy", "msgspec", "starlette", "uvicorn", "h11", "urllib3")
REQUESTS = 500
CLIENTS = 16
SEED = 0
CODE = """
import sys; from mmguard.guard.serving.server import ServerOptions, serve
serve(sys.argv[1:], ServerOptions(port=0, metrics_port=0), threads=1, on_ready=lambda *urls: print(*urls, flush=True))
"""


@dataclass(frozen=True)
class Server:
    """A running server: its process id, and the URLs of the protocol and of its metrics."""

    process: int
    url: str
    metrics_url: str


@contextmanager
def serving(bundle: Path) -> Iterator[Server]:
    """Serve one bundle in a separate process."""
    with subprocess.Popen([sys.executable, "-c", CODE, str(bundle)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(process.pid, *process.stdout.readline().split())
        finally:
            process.terminate()


def milliseconds(ask: Callable[[], urllib3.BaseHTTPResponse], requests: int, status: int = 200) -> list[float]:
    """Send requests one after the other, and return how many milliseconds each took."""
    took = []
    for _ in range(requests):
        start = time.perf_counter()
        response = ask()
        took.append((time.perf_counter() - start) * 1000)
        if response.status != status:
            raise SystemExit(f"expected status {status}, got {response.status}: {response.data[:200]!r}")
    return took


def figures(took: list[float]) -> Record:
    """Return quantiles of latencies in milliseconds."""
    quantiles = {f"p{q}_ms": round(float(np.percentile(took, q)), 3) for q in (50, 90, 99)}
    return {"requests": len(took), **quantiles, "max_ms": round(max(took), 3)}


def calm(server: Server, bundle: Path) -> Record:
    """Measure the latency for one client on a new persistent connection."""
    manifest = Bundle.open(bundle).manifest
    spec, url = manifest.input, f"{server.url}/models/{manifest.name}/infer"
    shape = (1, *(size or 1 for size in spec.shape[1:]))
    low, high = np.broadcast_arrays(spec.low, spec.high, np.empty(shape[1:]))[:2]
    x = np.random.default_rng(SEED).uniform(low, high, shape).astype(spec.dtype)
    tensor = {"name": spec.name, "shape": shape, "datatype": INPUTS[spec.dtype]}
    body = json.dumps({"inputs": [tensor | {"data": x.tolist()}]}).encode()
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": x.nbytes}}]}).encode()
    asked: dict[str, Callable[[urllib3.PoolManager], urllib3.BaseHTTPResponse]] = {
        "live": lambda pool: pool.request("GET", f"{server.url}/health/live"),
        "infer_json": lambda pool: pool.request("POST", url, body=body),
        "infer_binary": lambda pool: pool.request(
            "POST", url, body=head + x.tobytes(), headers={HEADER_LENGTH: str(len(head))}
        ),
        "metrics": lambda pool: pool.request("GET", server.metrics_url),
    }
    result = {}
    for name, ask in asked.items():
        with urllib3.PoolManager() as pool:
            result[name] = figures(milliseconds(lambda ask=ask, pool=pool: ask(pool), REQUESTS))  # type: ignore[misc]
    return result


def hostile_bodies(name: str) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return small bodies, with headers, that would be expensive to parse, by a description of their content."""
    start = b'{"inputs":[{"name":"%s","shape":[1,2],"datatype":"FP32","data":' % name.encode()
    filled = {
        "20 MB of empty lists": start + b"[" + b"[]," * 7_000_000 + b"[]]}]}",
        "empty lists up to the limit": start + b"[" + b"[]," * ((MAX_JSON_BYTES - 200) // 3) + b"[]]}]}",
        "objects in an unknown field": b'{"other":[' + b"{}," * ((MAX_JSON_BYTES - 200) // 3) + b"{}]}",
        "numbers of a shape that is not the model's": start.replace(b"[1,2]", b"[8000000]")
        + b"["
        + b"1," * 7_999_999
        + b"1]}]}",
        "beyond the limit": b" " * (4 * MAX_JSON_BYTES),
    }
    gzipped = {"Content-Encoding": "gzip"}
    bodies = {what: (gzip.compress(body, 9), gzipped) for what, body in filled.items()}
    zeros = gzip.compress(bytes(MAX_REQUEST_BYTES), 9)
    bodies["binary zeros up to the limit"] = (zeros, gzipped | {HEADER_LENGTH: "2"})
    bodies["empty lists up to the limit, not compressed"] = (filled["empty lists up to the limit"], {})
    return bodies


def attack(url: str, body: bytes, headers: dict[str, str]) -> list[tuple[int, float]]:
    """Let `CLIENTS` clients send a body at the same time; return status and seconds of each."""

    def send(_: int) -> tuple[int, float]:
        start = time.perf_counter()
        status = urllib3.request("POST", url, body=body, headers=headers, retries=False, timeout=300).status
        return status, time.perf_counter() - start

    with ThreadPoolExecutor(CLIENTS) as threads:
        return list(threads.map(send, range(CLIENTS)))


def stormy(server: Server, name: str, body: bytes, headers: dict[str, str]) -> Record:
    """Measure the latency of `/v2/health/live` while every client sends a hostile body."""
    url = f"{server.url}/models/{name}/infer"
    took = []
    with urllib3.PoolManager() as pool, ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(abs, 0).result()
        Path(f"/proc/{server.process}/clear_refs").write_text("5")  # resets the peak of resident memory
        attacked = process.submit(attack, url, body, headers)
        while not attacked.done():
            took += milliseconds(lambda: pool.request("GET", f"{server.url}/health/live"), 1)
            time.sleep(0.002)
    answers = attacked.result()
    return {
        "bytes": len(body),
        "statuses": sorted({status for status, _ in answers}),
        "slowest_answer_s": round(max(seconds for _, seconds in answers), 3),
        "server_peak_rss_mib": _peak_rss(server.process),
        "live": figures(took),
    }


def _peak_rss(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def measure(bundle: Path) -> Record:
    """Measure everything for one bundle."""
    name = Bundle.open(bundle).manifest.name
    with serving(bundle) as server:
        record = {"seed": SEED, "model": name, "calm": calm(server, bundle), "clients": CLIENTS}
        storms = {what: stormy(server, name, *sent) for what, sent in hostile_bodies(name).items()}
    return record | {"hostile": storms} | environment(DISTRIBUTIONS)


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "serving" / "latency.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.bundle is None:
            from tests.bundles import write_tiny_bundle

            options.bundle = write_tiny_bundle(Path(folder) / "tiny.mmguard")
        record = measure(options.bundle)
    write_json(options.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
