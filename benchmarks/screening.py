"""Measure the screen: what share of clean inputs it holds back, and which flags are lost, at several levels.

    python -m benchmarks.screening                                    # every network without a JSON
    python -m benchmarks.screening --networks cifar10-resnet20-wanet-seed0 --draws 5

Writes `benchmarks/results/screening/NETWORK-MMDF-50-DRAW.json`. Run it again to resume at the first missing one.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.ablation import METHOD, cells, read, read_winning
from benchmarks.cells import Bed, Cell, run_command
from benchmarks.guarded import calibrated
from benchmarks.metrics import auroc, true_positive_rate_at
from benchmarks.record import RESULTS, Record
from mmguard.detection.margins import Readings
from mmguard.detection.mmdf import MmdfTest
from mmguard.detection.screen import Screen
from mmguard.types import BoolArray, FloatArray

FOLDER = RESULTS / "screening"
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)


def measure(cell: Cell, data_folder: Path | None = None) -> Record:
    """Calibrate a guard, and compare the test of every unseen image with the test of those that the screen holds."""
    bed = Bed.of(cell, data_folder)
    guard, notes = calibrated(bed.suspect, bed.clean, "default", None, cell.draw)
    null = guard.bundle.manifest.null
    assert null is not None, "MMDF has a test"
    test, clean, winning = null.test(), read(guard, bed.x), read_winning(guard, bed)
    levels = {str(share): figures(test, share, clean, winning) for share in (0.0, *SHARES)}
    return bed.record() | {"notes": notes, "levels": levels}


def figures(test: MmdfTest, share: float, clean: Readings, winning: Readings | None) -> Record:
    """Measure the test behind a screen; `winning` are triggered inputs that get the attacker's label."""
    p_values, held_back = screened(test, share, clean)
    record: Record = {
        "held_back": float(held_back.mean()),
        "false_positive_rate": float((p_values <= test.theta).mean()),
    }
    if winning is None or not len(winning.decisions):
        return record
    own, held = screened(test, share, winning)
    scores, triggered = (-np.log(np.maximum(each, 1e-300)) for each in (p_values, own))
    return record | {
        "held_back_of_triggered": float(held.mean()),
        "true_positive_rate": float((own <= test.theta).mean()),
        "true_positive_rate_at": {"0.005": true_positive_rate_at(scores, triggered, 0.005)},
        "auroc": auroc(scores, triggered),
    }


def screened(test: MmdfTest, share: float, read: Readings) -> tuple[FloatArray, BoolArray]:
    """Return the p-values (N,) that the guard reports, and which inputs the screen holds back."""
    own, screen = test.verdicts(read).p_values, Screen.of(test, share)
    if screen is None:
        return own, np.ones(len(own), np.bool_)
    p_values = screen.p_values(read)
    held_back = screen.held_back(p_values)
    return np.where(held_back, own, p_values), held_back


def main() -> None:
    """Measure the networks that the command line names."""
    sys.exit(run_command(__doc__, "methods", [METHOD], (), cells, FOLDER, measure))


if __name__ == "__main__":
    main()
