"""`mmguard bench`: measure what a guard costs."""

import json as json_module
from collections.abc import Sequence
from pathlib import Path

from mmguard.cli.app import DONE, Device, app
from mmguard.cli.console import safe_lines
from mmguard.detection.screen import DEFAULT_SHARE
from mmguard.guard.bench import BATCHES, Bench
from mmguard.guard.bench import bench as measure
from mmguard.guard.sessions import PROVIDERS
from mmguard.text.format import percent


@app.command
def bench(
    bundle: Path,
    inputs: Path,
    *,
    batch: Sequence[int] = BATCHES,
    screen: Sequence[float] = (DEFAULT_SHARE, 0.0),
    seconds: float = 5.0,
    threads: int | None = None,
    device: Device = "cpu",
    json: bool = False,
) -> int:
    """Measure what the guard costs on this machine: its time divided by that of the model alone.

    Both run on the same batches in turn, in one process, so a busy machine slows both. The inputs are repeated as often
    as necessary.

    Parameters
    ----------
    bundle
        Folder of the guard bundle.
    inputs
        Inputs like those of your service, as for `mmguard scan`. The cost depends on how many of them the screen holds
        back. At most 1,024 are used.
    batch
        Batch sizes.
    screen
        Screens to measure: the share of clean inputs on which the clipped network may run. With 0 or 1, it runs on
        every input.
    seconds
        Time to spend on each batch size and screen.
    threads
        Intra-op threads of each network. By default, half of the CPU cores.
    device
        Device that the networks run on.
    json
        Print the result as JSON.
    """
    found = measure(
        bundle, inputs, batches=batch, screens=screen, seconds=seconds, providers=PROVIDERS[device], threads=threads
    )
    print(json_module.dumps(found.to_dict(), indent=2) if json else describe_bench(found))
    return DONE


def describe_bench(found: Bench) -> str:
    """Return the result as a table, one line per batch size and screen.

    Args:
        found: the result.
    """
    threads = f"{found.threads} thread{'s' * (found.threads != 1)}"
    head = f"{found.name}: {found.inputs} inputs, {found.provider}, {threads}{_memory(found)}"
    names = ("batch", "screen", "ratio", "quartiles", "held back", "model ms", "guard ms", "guard p99", "inputs/s")
    rows = [
        (
            str(each.batch),
            f"{each.screen:g}",
            f"{each.ratio:.2f}",
            f"{each.ratio_quartiles[0]:.2f}-{each.ratio_quartiles[1]:.2f}",
            percent(each.held_back),
            f"{each.unguarded_ms:.3g}",
            f"{each.guarded_ms:.3g}",
            f"{each.guarded_p99_ms:.3g}",
            f"{each.guarded_per_second:.0f}",
        )
        for each in found.timings
    ]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (names, *rows)]
    legend = [
        "ratio: time of the guard, divided by the time of the model alone; median and quartiles over blocks of runs"
    ]
    if any(0 < each.screen < 1 and each.held_back == 1 for each in found.timings):
        legend.append(
            "held back 100 %: this bundle's test has no screen, or these inputs are unlike its calibration set"
        )
    return safe_lines((head, *table, *legend))


def _memory(found: Bench) -> str:
    if found.session_bytes is None or found.guard_bytes is None:
        return ""
    return f", memory {found.session_bytes / 2**20:.0f} MiB (model), {found.guard_bytes / 2**20:.0f} MiB (guard)"
