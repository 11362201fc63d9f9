"""Every defence on every network: accuracy, attack success, and accuracy on triggered images (the paper's Table 1).

    python -m benchmarks.mitigation                                    # every cell that has no JSON yet
    python -m benchmarks.mitigation --networks cifar10-resnet20-badnets-seed0 --defences NC MMDF

Writes `benchmarks/results/mitigation/NETWORK-DEFENCE-IMAGES-DRAW.json`. Run again, it goes on with the first cell
missing. mmguard's presets `paper` and `reference` are slow, and run where they are named:
`--defences "MMAC paper" "MMDF paper"`.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from benchmarks.attacks import Attack
from benchmarks.cells import PER_CLASS, RESULTS, Bed, Cell, Record, run_command
from benchmarks.cifar import Images, Labels
from benchmarks.defences import DEFENCES, ON_REQUEST, Mitigated

FOLDER = RESULTS / "mitigation"


def cells(networks: Sequence[str], defences: Sequence[str], draws: int = 1) -> Iterator[Cell]:
    """Each defence with 50 clean images a class, then with as many as its paper had where that is another number."""
    own = {defence: DEFENCES[defence]().per_class or PER_CLASS for defence in defences}
    rows = [(defence, PER_CLASS) for defence in defences]
    rows += [(defence, per_class) for defence, per_class in own.items() if per_class != PER_CLASS]
    for (defence, per_class), network in product(rows, networks):
        yield from (Cell(network, defence, per_class, draw) for draw in range(draws))


def measure(cell: Cell, data_folder: Path | None = None) -> Record:
    """Defend the network and measure it on the test images that are not in D."""
    bed = Bed.of(cell, data_folder)
    start = time.perf_counter()
    mitigated = DEFENCES[cell.method]().mitigate(bed.suspect, bed.clean, cell.draw)
    seconds = round(time.perf_counter() - start, 1)
    return {
        "seed": bed.suspect.record["seed"],
        "seconds": mitigated.notes.get("calibration_seconds", seconds),
        "notes": mitigated.notes,
    } | figures(mitigated, bed.suspect.attack, bed.x, bed.y)


def figures(mitigated: Mitigated, attack: Attack, x: Images, y: Labels) -> Record:
    """ACC, ASR and PACC as in the caption of the paper's Table 1, as shares; the last two None without an attack.

    Triggered images are those of the classes that are attacked: for a single target, of all classes but the target.
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
    """Entry point."""
    sys.exit(run_command(__doc__, "defences", list(DEFENCES), ON_REQUEST, cells, FOLDER, measure))


if __name__ == "__main__":
    main()
