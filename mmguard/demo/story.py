"""The demo's story: train, attack, and then only the public commands that a user would run."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from mmguard import Bundle, Guard
from mmguard.demo import digits
from mmguard.errors import MmguardError, OptionError
from mmguard.guard.sessions import PROVIDERS, open_session
from mmguard.inputs.images import read_image

HOST = "127.0.0.1"
SERVE_SECONDS = 60
TIMED_BATCHES = 200
TRUTH = "truth.json"

console = Console(highlight=False)


def run(out: Path, seed: int = 0) -> int:
    """Run the demo.

    Args:
        out: folder for the model, the images and the bundle; what an earlier demo wrote there is replaced.
        seed: seeds the data, the attack, the training and the calibration.

    Returns:
        0 where the scraped counters equal the scan's own count of flags, else 1.

    Raises:
        OptionError: `out` holds something, and not an earlier demo.
    """
    if out.exists() and not (out / TRUTH).is_file() and any(out.iterdir()):
        raise OptionError(f"{out} is not empty and holds no earlier demo; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / TRUTH).touch()
    for name in ("clean", "suspect"):
        shutil.rmtree(out / name, ignore_errors=True)
    train, clean, test = digits.load(seed)
    console.print(f"Training a CNN on {len(train.y)} digits; {digits.POISONED_SHARE:.0%} more carry a patch ...")
    digits.export(digits.train_network(digits.poison(train, seed), seed), out / "digits.onnx")
    truth = write_folders(out, clean, test)
    bundle, rows_path = out / "digits.mmguard", out / "rows.jsonl"
    command("calibrate", out / "digits.onnx", out / "clean", "--out", bundle, "--seed", seed)
    command("verify", bundle)
    command("scan", bundle, out / "suspect", "--out", rows_path, found=True)
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()]
    with serving(bundle) as (address, metrics_address):
        labels = ask(address, Bundle.open(bundle), [out / "suspect" / row["input"] for row in rows])
        counters = scrape(metrics_address)
    result = measure(rows, truth, labels, counters) | {"milliseconds": time_guard(bundle, out / "suspect")}
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result, bundle)
    return 0 if result["counters_equal"] else 1


def write_folders(out: Path, clean: digits.Split, test: digits.Split) -> dict[str, dict[str, Any]]:
    """Write `clean/<class>/` and `suspect/`: the test images as they are, and with the trigger.

    Returns:
        For each file of `suspect/` its true label and whether it carries the trigger. mmguard never reads this.
    """
    digits.write_images(out / "clean", clean.x, [f"{label}/{i:03}" for i, label in enumerate(clean.y)])
    attacked = np.flatnonzero(test.y != digits.TARGET)
    digits.write_images(out / "suspect", test.x, [f"plain-{i:03}" for i in range(len(test.y))])
    digits.write_images(out / "suspect", digits.trigger(test.x[attacked]), [f"patched-{i:03}" for i in attacked])
    truth = {f"plain-{i:03}.png": {"label": int(label), "triggered": False} for i, label in enumerate(test.y)}
    truth |= {f"patched-{i:03}.png": {"label": int(test.y[i]), "triggered": True} for i in attacked}
    (out / TRUTH).write_text(json.dumps(truth, indent=1) + "\n")
    return truth


def command(name: str, *arguments: object, found: bool = False) -> None:
    """Print and run one public command.

    Args:
        found: whether exit code 3, triggers found, is expected.

    Raises:
        MmguardError: it failed.
    """
    words = [name, *map(str, arguments)]
    console.print(f"\n[bold]$ mmguard {shlex.join(words)}[/bold]", soft_wrap=True)
    code = subprocess.run([sys.executable, "-m", "mmguard", *words], check=False).returncode
    if found and code == 3:
        console.print("exit code 3: triggers found")
    elif code:
        raise MmguardError(f"mmguard {name} failed with exit code {code}")


@contextmanager
def serving(bundle: Path) -> Iterator[tuple[str, str]]:
    """Run `mmguard serve` until the block ends; gives the addresses of the protocol and of the metrics."""
    ports = free_ports(2)
    words = ["serve", str(bundle), "--port", str(ports[0]), "--metrics-port", str(ports[1])]
    console.print(f"\n[bold]$ mmguard {shlex.join(words)}[/bold] &", soft_wrap=True)
    server = subprocess.Popen([sys.executable, "-m", "mmguard", *words], stderr=subprocess.DEVNULL)
    try:
        wait_ready(server, f"http://{HOST}:{ports[0]}/v2/health/ready")
        yield f"{HOST}:{ports[0]}", f"http://{HOST}:{ports[1]}/metrics"
    finally:
        server.terminate()
        server.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports


def wait_ready(server: "subprocess.Popen[bytes]", url: str) -> None:
    """Poll until the server is ready.

    Raises:
        MmguardError: it ended, or was not ready in a minute.
    """
    deadline = time.monotonic() + SERVE_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise MmguardError("mmguard serve did not become ready")


def ask(address: str, bundle: Bundle, paths: Sequence[Path]) -> list[int]:
    """Send every image to the server as a Triton client would; returns the guarded labels."""
    spec, labels = bundle.manifest.input, []
    assert spec.preprocessing is not None, "the demo calibrates on images"
    console.print(f"\nA Triton client asks http://{address} for {len(paths)} images, one at a time ...")
    client = triton.InferenceServerClient(address)
    for path in paths:
        x = read_image(path, spec.preprocessing)[None]
        tensor = triton.InferInput(spec.name, list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        labels.append(int(client.infer(bundle.manifest.name, [tensor]).as_numpy("mmguard_label")[0]))
    client.close()
    return labels


def scrape(url: str) -> dict[str, float]:
    """The server's counters: inputs, corrections, and detections by reason."""
    console.print(f"\n[bold]$ curl {url}[/bold]")
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    counters = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in ("mmguard_inputs_total", "mmguard_corrections_total", "mmguard_detections_total"):
                name = sample.labels.get("reason", sample.name.removeprefix("mmguard_").removesuffix("_total"))
                counters[name] = sample.value
                labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
                console.print(f"{sample.name}{{{labels}}} {sample.value:.0f}", markup=False)
    return counters


def measure(
    rows: list[dict[str, Any]], truth: dict[str, dict[str, Any]], served: list[int], counters: dict[str, float]
) -> dict[str, Any]:
    """All figures of the closing table, from the scan's rows and the truth that only the attacker knows."""
    label = np.array([truth[row["input"]]["label"] for row in rows])
    triggered = np.array([truth[row["input"]]["triggered"] for row in rows])
    answers = {
        "without": np.array([row["original_label"] for row in rows]),
        "with": np.array([r["label"] for r in rows]),
    }
    flagged = np.array([row["flagged"] for row in rows])
    reasons = [row["reason"] for row in rows if row["flagged"]]
    flags = {reason: reasons.count(reason) for reason in ("disagreement", "confidence", "both")}
    return {
        "plain_images": int((~triggered).sum()),
        "triggered_images": int(triggered.sum()),
        "accuracy": {who: share(got[~triggered] == label[~triggered]) for who, got in answers.items()},
        "attack_success": {who: share(got[triggered] == digits.TARGET) for who, got in answers.items()},
        "triggered_accuracy": {who: share(got[triggered] == label[triggered]) for who, got in answers.items()},
        "flagged": {"plain": share(flagged[~triggered]), "triggered": share(flagged[triggered])},
        "flags": flags,
        "served_labels_equal": served == answers["with"].tolist(),
        "counters_equal": all(counters.get(reason, 0) == count for reason, count in flags.items())
        and counters["inputs"] == len(rows),
    }


def share(outcomes: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """Share of true outcomes."""
    return float(outcomes.mean())


def time_guard(bundle: Path, suspect: Path) -> dict[str, float]:
    """Median milliseconds an input, batch 1, interleaved in one process, without and with the guard."""
    with Guard(bundle, registry=None) as guard:
        manifest = guard.bundle.manifest
        session = open_session(guard.bundle.path / "original.onnx", PROVIDERS["cpu"], threads=1)
        assert manifest.input.preprocessing is not None, "the demo calibrates on images"
        x = read_image(sorted(suspect.iterdir())[0], manifest.input.preprocessing)[None]
        runs: dict[str, Callable[[], object]] = {
            "without": lambda: session.run(None, {manifest.input.name: x}),
            "with": lambda: guard(x),
        }
        seconds: dict[str, list[float]] = {who: [] for who in runs}
        for _ in range(TIMED_BATCHES):
            for who, call in runs.items():
                start = time.perf_counter()
                call()
                seconds[who].append(time.perf_counter() - start)
    return {who: 1000 * float(np.median(values)) for who, values in seconds.items()}


def show(result: dict[str, Any], bundle: Path) -> None:
    """Print the closing table."""
    table = Table(title=f"\n{result['plain_images']} plain test images, {result['triggered_images']} with the trigger")
    for column in ("", "without guard", "with guard"):
        table.add_column(column, justify="left" if not column else "right")
    percent = {
        "accuracy on plain images": result["accuracy"],
        "attack success": result["attack_success"],
        "true label on triggered images": result["triggered_accuracy"],
    }
    for name, pair in percent.items():
        table.add_row(name, f"{pair['without']:.1%}", f"{pair['with']:.1%}")
    table.add_row("flagged, plain images", "", f"{result['flagged']['plain']:.1%}")
    table.add_row("flagged, triggered images", "", f"{result['flagged']['triggered']:.1%}")
    for reason, count in result["flags"].items():
        table.add_row(f"flags: {reason}", "", str(count))
    milliseconds = result["milliseconds"]
    table.add_row("milliseconds an input", f"{milliseconds['without']:.2f}", f"{milliseconds['with']:.2f}")
    console.print(table)
    equal = "equal" if result["counters_equal"] else "DIFFER FROM"
    console.print(f"The scraped counters {equal} the scan's own count of flags. The bundle is {bundle}.")
