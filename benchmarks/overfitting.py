"""Measure overfitting without a backdoor, by rare classes and over-training: Tables 2 to 5, Figures 1 and 2.

    python -m benchmarks.overfitting                                        # every cell without a JSON
    python -m benchmarks.overfitting --list                                 # list all cells, and which are done
    python -m benchmarks.overfitting --only cifar10-LT-100-CE --device cuda --minutes 6
    python -m benchmarks.overfitting --small resnet20 20                    # MMOM on CIFAR-10, sized for two cores

A cell is one ResNet-32 (or another network with --small) and its mitigation. The network is trained once, kept with its
checkpoint in --networks, and shared by all cells that need it. The calibration set is drawn from the test images, and
every cell, mitigated or not, is measured on the other test images. Writes `benchmarks/results/overfitting/CELL.json`.
Run it again to resume.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import mmguard
from benchmarks import cifar, train
from benchmarks.environment import environment
from benchmarks.evaluate import Exported, per_class_accuracy
from benchmarks.guarded import write_clean
from benchmarks.overfitting_grid import PER_CLASS, Cell, cells, small_cells
from benchmarks.record import RESULTS, Record, write_json
from benchmarks.suspect import CleanSet, Suspect
from mmguard.inputs.preprocessing import PreprocessingOptions

logger = logging.getLogger("benchmarks.overfitting")

FOLDER = RESULTS / "overfitting"
ROUNDS: int | None = None
"""Maximum number of rounds; None uses the preset's."""


@dataclass(frozen=True)
class Place:
    """Where and for how long cells are run.

    Attributes:
        networks: folder of the networks.
        data_folder: folder with the data set's archive; None for MMGUARD_DATA.
        device: `cpu` or `cuda`, for training and calibration. Figures are measured on the CPU.
        deadline: in seconds of `time.monotonic`.
    """

    networks: Path
    data_folder: Path | None = None
    device: str = "cpu"
    deadline: float = math.inf

    @property
    def minutes(self) -> float | None:
        """Minutes left; None without a deadline."""
        return None if math.isinf(self.deadline) else max(0.0, self.deadline - time.monotonic()) / 60


def run_cells(grid: Iterable[Cell], folder: Path, place: Place) -> None:
    """Measure every cell that has no JSON in the folder yet.

    Raises:
        OutOfTimeError: the deadline has passed; call again to resume.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for cell in grid:
        path = folder / f"{cell.name}.json"
        if path.is_file():
            continue
        if place.minutes == 0:
            raise train.OutOfTimeError(f"time is up before {cell.name}; run again to resume")
        record = measure(cell, place)
        write_json(path, record)
        logger.info("%s: accuracy %.4f", cell.name, record["accuracy"])


def measure(cell: Cell, place: Place) -> Record:
    """Train the network if it is missing, mitigate, and measure on the test images outside the calibration set."""
    suspect = network_of(cell, place)
    data = cifar.load(cell.data, place.data_folder)
    chosen, unseen = cifar.calibration_split(data.y_test, PER_CLASS[cell.data], cell.seed)
    network, notes = mitigate(cell, suspect, CleanSet(data.x_test[chosen], data.y_test[chosen]), place)
    labels, y = network.labels(data.x_test[unseen]), data.y_test[unseen]
    return (
        asdict(cell)
        | {
            "name": cell.name,
            "images": len(y),
            "clean_set_per_class": PER_CLASS[cell.data],
            "accuracy": float((labels == y).mean()),
            "per_class_accuracy": per_class_accuracy(labels, y).tolist(),
            "class_sizes": suspect.record["class_sizes"],
            "training_seconds": suspect.record["training_seconds"],
            "recipe": suspect.record["recipe"],
        }
        | notes
        | {"network": suspect.record}
        | environment()
    )


def network_of(cell: Cell, place: Place) -> Suspect:
    """Return the cell's network, from the cache or by training; raise OutOfTimeError if that takes too long."""
    folder = place.networks / f"{cell.recipe.name}-{cell.epochs}epochs"
    path = folder / f"{cell.recipe.name}.json"
    if not path.is_file() or json.loads(path.read_text())["recipe"] != asdict(cell.recipe):
        train.run(cell.recipe, folder, place.data_folder, True, place.device, place.minutes)
    return Suspect.load(cell.recipe.name, folder)


def mitigate(cell: Cell, suspect: Suspect, clean: CleanSet, place: Place) -> tuple[Exported, Record]:
    """Return the mitigated network of the cell, and notes on its calibration."""
    if cell.mitigation == "none":
        return suspect.exported, {"mitigation_seconds": 0.0, "settings": None, "calibration": None}
    images, path = suspect.path.parent / "clean", suspect.path.parent / f"{cell.name}.mmguard"
    write_clean(images, clean)
    mean, deviation = (suspect.record[key] for key in ("mean", "std"))
    settings = mmguard.preset(rounds=ROUNDS)
    if cell.mitigation == "MMOM":
        settings = mmguard.preset(objective="mmom", margin_weight=cell.weight, rounds=ROUNDS)
    start = time.perf_counter()
    mmguard.calibrate_model(
        suspect.path,
        images,
        settings=settings,
        out=path,
        preprocessing=PreprocessingOptions(mean=mean, std=deviation).preprocessing(),
        seed=cell.seed,
        device=place.device,
    )
    seconds, manifest = time.perf_counter() - start, mmguard.Bundle.open(path).manifest
    clipped = Exported(path / "clipped.onnx", suspect.exported.mean, suspect.exported.deviation)
    return clipped, {
        "mitigation_seconds": round(seconds, 1),
        "settings": manifest.settings.as_json(),
        "calibration": asdict(manifest.calibration),
    }


def show(grid: Iterable[Cell], folder: Path) -> None:
    """Print each cell and whether it is done."""
    for cell in grid:
        print(f"{cell.name}: {'done' if (folder / f'{cell.name}.json').is_file() else 'open'}")


def main() -> None:
    """Measure the cells that the command line names."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="only cells whose name contains one of these"
    )
    parser.add_argument(
        "--small",
        nargs=2,
        metavar=("NETWORK", "EPOCHS"),
        help="only CE and MMOM on CIFAR-10, with this network and training",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of training, of the calibration sets' draws and of calibration"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device to train and calibrate on")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start nothing new after this time; run again to resume"
    )
    parser.add_argument("--networks", type=Path, default=cifar.CACHE / "overfitting", help="folder of the networks")
    parser.add_argument("--data-folder", type=Path, help="folder with the data set's archive; default MMGUARD_DATA")
    parser.add_argument("--list", action="store_true", help="print the cells without running them")
    options = parser.parse_args()
    small = options.small and small_cells(options.small[0], int(options.small[1]), options.seed)
    grid = [cell for cell in small or cells(options.seed) if any(part in cell.name for part in options.only)]
    if options.list:
        return show(grid, FOLDER)
    deadline = time.monotonic() + 60 * options.minutes
    try:
        run_cells(grid, FOLDER, Place(options.networks, options.data_folder, options.device, deadline))
    except train.OutOfTimeError as stopped:
        logger.info("%s", stopped)


if __name__ == "__main__":
    main()
