"""Run the tables cell by cell. A cell is one network, one method and one draw of the calibration set, in one JSON."""

import argparse
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from benchmarks import cifar
from benchmarks.cifar import Images, Labels
from benchmarks.environment import environment
from benchmarks.record import Record, write_json
from benchmarks.suspect import ZOO, CleanSet, Suspect

logger = logging.getLogger("benchmarks.cells")

PER_CLASS = 50
"""Clean images per class that every method gets in the main tables, as the paper's method does."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        network: name of the network in the zoo.
        method: name of the defence or of the detector.
        per_class: images of each class in the calibration set.
        draw: seed of the calibration set's draw and of the method.
    """

    network: str
    method: str
    per_class: int = PER_CLASS
    draw: int = 0

    @property
    def file(self) -> str:
        """Name of the cell's JSON file."""
        return f"{self.network}-{self.method.replace(' ', '_')}-{self.per_class}-draw{self.draw}.json"


@dataclass(frozen=True)
class Bed:
    """What a cell is measured on: the network, the calibration set, and the other test images."""

    suspect: Suspect
    clean: CleanSet
    x: Images
    y: Labels

    @classmethod
    def of(cls, cell: Cell, data_folder: Path | None) -> "Bed":
        """Split the test images of the network's data set; all methods with this many images get the same split."""
        suspect = Suspect.load(cell.network)
        data = cifar.load(suspect.record["recipe"]["data"], data_folder)
        chosen, unseen = cifar.calibration_split(data.y_test, cell.per_class, cell.draw)
        return cls(
            suspect, CleanSet(data.x_test[chosen], data.y_test[chosen]), data.x_test[unseen], data.y_test[unseen]
        )

    def record(self) -> Record:
        """Return the facts about the network that a cell stores, so that the tables do not need the zoo."""
        recipe = self.suspect.record["recipe"]
        return {"architecture": recipe["network"], "attack": recipe["attack"], "seed": recipe["seed"]}


def grid(networks: Sequence[str], images: Mapping[str, int], draws: int = 1) -> Iterator[Cell]:
    """Yield each method with 50 clean images per class, then, if its paper used another number, with that number.

    Args:
        networks: names of networks in the zoo.
        images: clean images per class in the paper of each method; 0 if it needs none.
        draws: number of draws of the calibration set.

    Yields:
        The cells.
    """
    rows = [(method, PER_CLASS) for method in images]
    rows += [(method, own) for method, own in images.items() if own not in (0, PER_CLASS)]
    for (method, per_class), network in product(rows, networks):
        yield from (Cell(network, method, per_class, draw) for draw in range(draws))


def run_cells(cells: Iterable[Cell], folder: Path, measure: Callable[[Cell], Record]) -> int:
    """Measure every cell that has no JSON in the folder yet, and write its JSON.

    Returns:
        The number of cells that failed. A failed cell leaves no JSON and does not stop the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    for cell in cells:
        path, start = folder / cell.file, time.perf_counter()
        if path.is_file():
            continue
        try:
            record = measure(cell)
        except Exception:
            logger.exception("%s failed", cell)
            failures += 1
            continue
        seconds = round(time.perf_counter() - start, 1)
        write_json(path, asdict(cell) | {"cell_seconds": seconds} | record | environment())
        logger.info("%s: %.0f s", path.name, seconds)
    return failures


def run_command(
    description: str | None,
    option: str,
    methods: Sequence[str],
    on_request: Collection[str],
    cells: Callable[[Sequence[str], Sequence[str], int], Iterable[Cell]],
    folder: Path,
    measure: Callable[[Cell, Path | None], Record],
) -> int:
    """Parse the command line of a benchmark and run its cells.

    Args:
        description: text for `--help`.
        option: name of the option that selects methods.
        methods: all methods.
        on_request: methods that only run if they are named.
        cells: makes the cells for networks, methods and a number of draws.
        folder: folder of the JSON files.
        measure: measures a cell, given the folder of the data set.

    Returns:
        The exit code: 1 if a cell failed.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo = sorted(path.stem for path in ZOO.glob("*.onnx"))
    parser.add_argument("--networks", nargs="+", choices=zoo, default=zoo, metavar="NETWORK")
    usual = [method for method in methods if method not in on_request]
    parser.add_argument(f"--{option}", nargs="+", choices=methods, default=usual, dest="methods")
    parser.add_argument("--draws", type=int, default=1, help="draws of the calibration set per network")
    parser.add_argument("--data-folder", type=Path, help="folder with the data set's archive; default MMGUARD_DATA")
    options = parser.parse_args()
    grid = cells(options.networks, options.methods, options.draws)
    return min(1, run_cells(grid, folder, lambda cell: measure(cell, options.data_folder)))
