"""Measure every defence on every network: accuracy, attack success, and accuracy on triggered images (Table 1).

    python -m benchmarks.mitigation                                    # every cell without a JSON
    python -m benchmarks.mitigation --networks cifar10-resnet20-badnets-seed0 --defences NC MMDF

Writes `benchmarks/results/mitigation/NETWORK-DEFENCE-IMAGES-DRAW.json`. Run it again to resume at the
first missing cell. mmguard's presets `paper` and `reference` are slow and only run if named:
`--defences "MMAC paper" "MMDF paper"`.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.attacks import Attack
from benchmarks.cells import Bed, Cell, grid, run_command
from benchmarks.cifar import Images, Labels
from benchmarks.defences import DEFENCES, ON_REQUEST, Mitigated
from benchmarks.record import RESULTS, Record

FOLDER = RESULTS / "mitigation"


def cells(networks: Sequence[str], defences: Sequence[str], draws: int = 1) -> Iterator[Cell]:
    """Yield the cells of these defences."""
    return grid(networks, {name: DEFENCES[name]().per_class for name in defences}, draws)


def measure(cell: Cell, data_folder: Path | None = None) -> Record:
    """Apply the defence, and measure the result on the test images outside the calibration set."""
    bed, defence = Bed.of(cell, data_folder), DEFENCES[cell.method]()
    start = time.perf_counter()
    mitigated = defence.mitigate(bed.suspect, bed.clean, cell.draw)
    seconds = round(time.perf_counter() - start, 1)
    own: Record = {
        "settings": asdict(defence),
        "seconds": mitigated.notes.get("calibration_seconds", seconds),
        "notes": mitigated.notes,
    }
    return bed.record() | own | figures(mitigated, bed.suspect.attack, bed.x, bed.y)


def figures(mitigated: Mitigated, attack: Attack, x: Images, y: Labels) -> Record:
    """Return ACC, ASR and PACC as defined in the caption of the paper's Table 1, as shares.

    Triggered images are those of the attacked classes: with a single target, of all classes but the target. Without an
    attack, ASR and PACC are None.
    """
    goal = attack.goal(y)
    victims = goal != y
    record: Record = {
        "clean_images": len(y),
        "triggered_images": int(victims.sum()),
        "clean_accuracy": float((mitigated.labels(x) == y).mean()),
        "attack_success": None,
        "triggered_accuracy": None,
    }
    if not victims.any():
        return record
    labels = mitigated.labels(attack.trigger(x[victims]))
    return record | {
        "attack_success": float((labels == goal[victims]).mean()),
        "triggered_accuracy": float((labels == y[victims]).mean()),
    }


def main() -> None:
    """Measure the cells that the command line names."""
    sys.exit(run_command(__doc__, "defences", list(DEFENCES), ON_REQUEST, cells, FOLDER, measure))


if __name__ == "__main__":
    main()
