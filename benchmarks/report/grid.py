"""Look up the JSONs of cells by network, attack and method."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.record import Record


def read(folder: Path) -> list[Record]:
    """Read the records of a folder, sorted by file name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


class Grid:
    """Records of cells by architecture and attack of the network, method, and images per class.

    Args:
        records: records that `benchmarks.mitigation` or `benchmarks.detection` wrote.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self._cells: dict[tuple[str, str, str, int], list[Record]] = {}
        for record in records:
            key = (record["architecture"], record["attack"], record["method"], record["per_class"])
            self._cells.setdefault(key, []).append(record)

    def records_of(self, architecture: str, attack: str, method: str, per_class: int) -> list[Record]:
        """Return the records of all seeds and draws; none if no cell was run."""
        return self._cells.get((architecture, attack, method, per_class), [])

    def seeds(self, architecture: str, attack: str, method: str, per_class: int, *path: str) -> list[float]:
        """Return one figure, at `path` in the records, for each network that has it: the mean over its draws."""
        draws: dict[str, list[float]] = {}
        for record in self.records_of(architecture, attack, method, per_class):
            value: Any = record
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                draws.setdefault(record["network"], []).append(value)
        return [mean(values) for values in draws.values()]


def spread(shares: Iterable[float], digits: int = 2) -> str:
    """Format mean ± standard deviation of shares in per cent; a single value stands alone, no value is empty."""
    values = [100 * share for share in shares]
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def average(values: Iterable[float], digits: int = 0) -> str:
    """Format the mean of the values; empty if there are none."""
    given = list(values)
    return f"{mean(given):.{digits}f}" if given else ""
