"""Markdown building blocks of README.md and RESULTS.md."""

from collections.abc import Sequence

from benchmarks.record import Record


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def percent(value: float) -> str:
    """Format a share as a percentage, with two decimals below 1 % and one above."""
    return f"{100 * value:.2f} %" if 0 < value < 0.01 else f"{100 * value:.1f} %"


def footnote(record: Record) -> str:
    """Say on what hardware and with which versions a record was measured."""
    hardware, versions = record["hardware"], record["versions"]
    runtime = next(f"{key} {value}" for key, value in versions.items() if key.startswith("onnxruntime"))
    threads = hardware.get("threads", hardware["cores"])
    machine = f"{hardware['cpu']}, {hardware['cores']} core{'s' * (hardware['cores'] > 1)}"
    machine += "" if threads == hardware["cores"] else f", {threads} thread{'s' * (threads > 1)}"
    machine += f", {hardware['gpu']}" if "gpu" in hardware else ""
    return f"{machine}; Python {versions['python']}, torch {versions['torch']}, {runtime}."
