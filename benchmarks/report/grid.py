"""The JSONs of the cells, found by what they are about."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.record import Record


def read(folder: Path) -> list[Record]:
    """The records of a folder, by name of file."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


class Grid:
    """Records of cells by the architecture and the attack of their network, the method, and the images a class in D.

    Args:
        records: as `benchmarks.mitigation` and `benchmarks.detection` write them.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self._cells: dict[tuple[str, str, str, int], list[Record]] = {}
        for record in records:
            key = (record["architecture"], record["attack"], record["method"], record["per_class"])
            self._cells.setdefault(key, []).append(record)

    def records_of(self, architecture: str, attack: str, method: str, per_class: int) -> list[Record]:
        """Of each seed and draw; none where no cell was run."""
        return self._cells.get((architecture, attack, method, per_class), [])

    def seeds(self, architecture: str, attack: str, method: str, per_class: int, *path: str) -> list[float]:
        """One figure of each network that has it, the mean over its draws of D; `path` leads to it in the record."""
        draws: dict[str, list[float]] = {}
        for record in self.records_of(architecture, attack, method, per_class):
            value: Any = record
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                draws.setdefault(record["network"], []).append(value)
        return [mean(values) for values in draws.values()]


def spread(shares: Iterable[float], digits: int = 2) -> str:
    """Mean ± standard deviation of shares, in per cent; one value as it is, none as nothing."""
    values = [100 * share for share in shares]
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def average(values: Iterable[float], digits: int = 0) -> str:
    """Mean of the values; none as nothing."""
    given = list(values)
    return f"{mean(given):.{digits}f}" if given else ""
