"""Computes and prints the demo's figures: accuracy, attack success, flags and latency, with and without the guard."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mmguard import Guard
from mmguard.demo import digits
from mmguard.demo.console import console, print_line
from mmguard.guard.sessions import PROVIDERS, open_session
from mmguard.inputs.image_files import read_image
from mmguard.text.format import percent
from mmguard.types import Reason

TIMED_BATCHES = 200


def measure(
    rows: list[dict[str, Any]], truth: dict[str, dict[str, Any]], served: list[int], counters: dict[str, float]
) -> dict[str, Any]:
    """Compare the scan's and the server's answers with the truth, which the guard never sees.

    Args:
        rows: the scan's rows.
        truth: maps each file name to the true label of the image and whether the image has the trigger.
        served: the label that the server returned for each row.
        counters: the server's counters, as `mmguard.demo.server.scrape` returns them.

    Returns:
        All figures in the closing table except the latency. Shares are in [0, 1].
    """
    label = np.array([truth[row["input"]]["label"] for row in rows])
    triggered = np.array([truth[row["input"]]["triggered"] for row in rows])
    answers = {
        "without": np.array([row["original_label"] for row in rows]),
        "with": np.array([row["label"] for row in rows]),
    }
    flagged = np.array([row["flagged"] for row in rows])
    reasons = [row["reason"] for row in rows if row["flagged"]]
    flags = {reason: reasons.count(reason) for reason in Reason if reason not in (Reason.NONE, Reason.UNTESTED)}
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
    """Compute the share of outcomes that are True.

    Args:
        outcomes: (n,) bool.

    Returns:
        The share, in [0, 1].

    Example:
        >>> share(np.array([True, False, False, True]))
        0.5
    """
    return float(outcomes.mean())


def time_guard(bundle: Path, suspect: Path) -> dict[str, float]:
    """Measure the time per image in one process, alternating between the original network and the guard.

    Args:
        bundle: the bundle.
        suspect: folder of images; only the first image is used.

    Returns:
        Median time per image in milliseconds, with the keys `without` (no guard) and `with` (with the guard).
    """
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


def print_figures(result: dict[str, Any]) -> None:
    """Print the closing table.

    Args:
        result: the figures that `measure` returns, plus a key `milliseconds` with the times that `time_guard` returns.
    """
    clean, triggered = result["plain_images"], result["triggered_images"]
    table = Table(title=f"\n{clean} clean test images, and {triggered} copies with the trigger")
    table.add_column("")
    for column in ("without guard", "with guard"):
        table.add_column(column, justify="right")
    compared = {
        "accuracy on clean images": result["accuracy"],
        "attack success": result["attack_success"],
        "accuracy on triggered images": result["triggered_accuracy"],
    }
    for name, pair in compared.items():
        table.add_row(name, percent(pair["without"]), percent(pair["with"]))
    table.add_row("clean images flagged", "", percent(result["flagged"]["plain"]))
    table.add_row("triggered images flagged", "", percent(result["flagged"]["triggered"]))
    for reason, count in result["flags"].items():
        table.add_row(f"flags with reason {reason}", "", str(count))
    milliseconds = result["milliseconds"]
    table.add_row("milliseconds per image", f"{milliseconds['without']:.2f}", f"{milliseconds['with']:.2f}")
    console.print(table)
    equal = "equal" if result["counters_equal"] else "DIFFER FROM"
    print_line(f"The counters scraped from the server {equal} the scan's own count of flags.")
