"""Latency of the server: on a kept connection, and of its health while hostile bodies arrive.

    python -m benchmarks.serving                    # writes results/serving/latency.json
    python -m benchmarks.serving BUNDLE --out FILE

Without a bundle, the tests' own tiny one is served. The server is a process of its own, and so are the hostile clients.
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
from mmguard.guard.serving.body import MAX_JSON_BYTES, MAX_REQUEST_BYTES
from mmguard.guard.serving.tensors import HEADER_LENGTH, INPUTS

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "numpy", "msgspec", "starlette", "uvicorn", "h11", "urllib3")
REQUESTS = 500
CLIENTS = 16
SEED = 0
CODE = """
import sys; from mmguard.guard.serving.server import serve
serve(sys.argv[1:], port=0, metrics_port=0, threads=1, on_ready=lambda *urls: print(*urls, flush=True))
"""


@dataclass(frozen=True)
class Server:
    """A running server: its process, the URL of the protocol and that of its metrics."""

    process: int
    url: str
    metrics_url: str


@contextmanager
def serving(bundle: Path) -> Iterator[Server]:
    """A server of one bundle in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", CODE, str(bundle)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(process.pid, *process.stdout.readline().split())
        finally:
            process.terminate()


def milliseconds(ask: Callable[[], urllib3.BaseHTTPResponse], requests: int, status: int = 200) -> list[float]:
    """How long each of some requests takes, one after the other."""
    took = []
    for _ in range(requests):
        start = time.perf_counter()
        response = ask()
        took.append((time.perf_counter() - start) * 1000)
        if response.status != status:
            raise SystemExit(f"expected status {status}, got {response.status}: {response.data[:200]!r}")
    return took


def figures(took: list[float]) -> Record:
    """Quantiles of latencies in milliseconds."""
    quantiles = {f"p{q}_ms": round(float(np.percentile(took, q)), 3) for q in (50, 90, 99)}
    return {"requests": len(took), **quantiles, "max_ms": round(max(took), 3)}


def calm(server: Server, bundle: Path) -> Record:
    """Latency of one client on a fresh connection that it keeps."""
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
    """Small bodies, and their headers, that were or would be dear to read, by what is in them."""
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
    """Status and seconds of each of `CLIENTS` clients that send a body at once."""

    def send(_: int) -> tuple[int, float]:
        start = time.perf_counter()
        status = urllib3.request("POST", url, body=body, headers=headers, retries=False, timeout=300).status
        return status, time.perf_counter() - start

    with ThreadPoolExecutor(CLIENTS) as threads:
        return list(threads.map(send, range(CLIENTS)))


def stormy(server: Server, name: str, body: bytes, headers: dict[str, str]) -> Record:
    """Latency of `/v2/health/live` while clients send one hostile body each."""
    url = f"{server.url}/models/{name}/infer"
    took = []
    with urllib3.PoolManager() as pool, ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(abs, 0).result()
        Path(f"/proc/{server.process}/clear_refs").write_text("5")  # forget the peak so far
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
    """All figures of one bundle."""
    name = Bundle.open(bundle).manifest.name
    with serving(bundle) as server:
        record = {"seed": SEED, "model": name, "calm": calm(server, bundle), "clients": CLIENTS}
        storms = {what: stormy(server, name, *sent) for what, sent in hostile_bodies(name).items()}
    return record | {"hostile": storms} | environment(DISTRIBUTIONS)


def main() -> None:
    """Measure, print and keep."""
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
