"""Starts `mmguard serve` for the demo, sends images to it with a Triton client, and reads its counters."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families

from mmguard import Bundle
from mmguard.demo.console import print_command, print_line
from mmguard.errors import MmguardError
from mmguard.inputs.image_files import read_image

HOST = "127.0.0.1"
START_SECONDS = 60
"""Maximum number of seconds that the server may take to become ready."""
COUNTERS = ("mmguard_inputs_total", "mmguard_corrections_total", "mmguard_detections_total")


@contextmanager
def serving(bundle: Path) -> Iterator[tuple[str, str]]:
    """Run `mmguard serve` for the duration of the block.

    Args:
        bundle: the bundle to serve.

    Yields:
        The server's host and port, and the URL of its metrics.
    """
    ports = free_ports(2)
    words = ["serve", str(bundle), "--port", str(ports[0]), "--metrics-port", str(ports[1])]
    print_command(["mmguard", *words], background=True)
    server = subprocess.Popen([sys.executable, "-m", "mmguard", *words], stderr=subprocess.DEVNULL)
    try:
        wait_ready(server, f"http://{HOST}:{ports[0]}/v2/health/ready")
        yield f"{HOST}:{ports[0]}", f"http://{HOST}:{ports[1]}/metrics"
    finally:
        server.terminate()
        server.wait()


def free_ports(count: int) -> list[int]:
    """Find ports that are not in use.

    Args:
        count: number of ports.

    Returns:
        The ports, all different.

    Example:
        >>> len(set(free_ports(2)))
        2
    """
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports


def wait_ready(server: "subprocess.Popen[bytes]", url: str) -> None:
    """Poll until the server is ready.

    Args:
        server: the server's process.
        url: URL of the server's readiness endpoint.

    Raises:
        MmguardError: the server exited, or was not ready within a minute.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise MmguardError(
        f"mmguard serve exited or was not ready within {START_SECONDS} s; to see why, run the command above yourself"
    )


def request_labels(address: str, bundle: Bundle, paths: Sequence[Path]) -> list[int]:
    """Send images to the server one at a time, with a Triton client.

    Args:
        address: the server's host and port.
        bundle: the bundle that the server uses.
        paths: the image files.

    Returns:
        The guarded label of each image.
    """
    spec, labels = bundle.manifest.input, []
    assert spec.preprocessing is not None, "the demo calibrates on images"
    print_line(f"\nA Triton client sends {len(paths)} images to http://{address}, one at a time ...")
    client = triton.InferenceServerClient(address)
    for path in paths:
        x = read_image(path, spec.preprocessing)[None]
        tensor = triton.InferInput(spec.name, list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        labels.append(int(client.infer(bundle.manifest.name, [tensor]).as_numpy("mmguard_label")[0]))
    client.close()
    return labels


def scrape(url: str) -> dict[str, float]:
    """Read and print the server's counters.

    Args:
        url: URL of the server's metrics endpoint.

    Returns:
        Value of each counter. The keys are `inputs`, `corrections` and, for detections, the name of each reason.
    """
    print_command(["curl", url])
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    counters = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in COUNTERS:
                name = sample.labels.get("reason", sample.name.removeprefix("mmguard_").removesuffix("_total"))
                counters[name] = sample.value
                labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
                print_line(f"{sample.name}{{{labels}}} {sample.value:.0f}")
    return counters
