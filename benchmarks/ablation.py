"""Measure the evidence of the test one kind at a time: each statistic alone, each left out, and all together.

    python -m benchmarks.ablation                                    # every network without a JSON
    python -m benchmarks.ablation --networks cifar10-resnet20-wanet-seed0 --draws 5

Writes `benchmarks/results/ablation/NETWORK-MMDF-50-DRAW.json`. Run it again to resume at the first missing one.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.cells import Bed, Cell, grid, run_command
from benchmarks.cifar import Images
from benchmarks.detection import FALSE_POSITIVE_RATES
from benchmarks.guarded import calibrated, inputs
from benchmarks.metrics import auroc, true_positive_rate_at
from benchmarks.record import RESULTS, Record
from mmguard import Guard
from mmguard.bundle.manifest import NullSpec
from mmguard.detection.margins import Readings

FOLDER = RESULTS / "ablation"
METHOD = "MMDF"


def cells(networks: Sequence[str], methods: Sequence[str], draws: int = 1) -> Iterator[Cell]:
    """Yield one cell per network and draw of the calibration set."""
    return grid(networks, dict.fromkeys(methods, 0), draws)


def measure(cell: Cell, data_folder: Path | None = None) -> Record:
    """Calibrate a guard, and measure its test with every subset of statistics on unseen images."""
    bed = Bed.of(cell, data_folder)
    guard, notes = calibrated(bed.suspect, bed.clean, "default", None, cell.draw)
    null = guard.bundle.manifest.null
    assert null is not None, "MMDF has a test"
    clean, winning = read(guard, bed.x), read_winning(guard, bed)
    subsets = subsets_of([criterion.statistic for criterion in null.criteria])
    found = {name: figures(null, names, clean, winning) for name, names in subsets.items()}
    return bed.record() | {"notes": notes, "subsets": found}


def read(guard: Guard, x: Images) -> Readings:
    """Return what both networks show of images (N, 32, 32, 3) uint8."""
    parts = []
    for batch in inputs(guard, x):
        original = guard.networks.original(batch)
        assert original.activations is not None, "the default test reads activations"
        parts.append((original.logits, guard.networks.clipped(batch).logits, original.activations))
    return Readings(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def read_winning(guard: Guard, bed: Bed) -> Readings | None:
    """Return what both networks show of the triggered images that get the attacker's label; None without an attack."""
    goal = bed.suspect.attack.goal(bed.y)
    victims = goal != bed.y
    if not victims.any():
        return None
    triggered = read(guard, bed.suspect.attack.trigger(bed.x[victims]))
    return triggered.rows(triggered.decisions == goal[victims])


def subsets_of(statistics: Sequence[str]) -> dict[str, list[str]]:
    """Return the subsets to measure, by name."""
    alone = {f"only {name}": [name] for name in statistics}
    left_out = {f"without {name}": [each for each in statistics if each != name] for name in statistics}
    return {"all": list(statistics)} | alone | left_out


def figures(null: NullSpec, statistics: Sequence[str], clean: Readings, winning: Readings | None) -> Record:
    """Measure the test with some of its statistics; `winning` are triggered inputs that get the attacker's label."""
    test = replace(null.fitted(), criteria=tuple(c.criterion() for c in null.criteria if c.statistic in statistics))
    scores = -np.log(np.maximum(test.verdicts(clean).p_values, 1e-300))
    record: Record = {"false_positive_rate": float(test.verdicts(clean).flagged.mean())}
    if winning is None or not len(winning.decisions):
        return record
    verdicts = test.verdicts(winning)
    triggered = -np.log(np.maximum(verdicts.p_values, 1e-300))
    rates = {str(rate): true_positive_rate_at(scores, triggered, rate) for rate in FALSE_POSITIVE_RATES}
    return record | {
        "auroc": auroc(scores, triggered),
        "true_positive_rate": float(verdicts.flagged.mean()),
        "true_positive_rate_at": rates,
    }


def main() -> None:
    """Measure the networks that the command line names."""
    sys.exit(run_command(__doc__, "methods", [METHOD], (), cells, FOLDER, measure))


if __name__ == "__main__":
    main()
