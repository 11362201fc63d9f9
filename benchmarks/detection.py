"""Measure every input detector on every network: AUROC, true positives at fixed false positives, and cost per input.

    python -m benchmarks.detection                                    # every cell without a JSON
    python -m benchmarks.detection --networks cifar10-resnet20-badnets-seed0 --detectors STRIP MMDF

Writes `benchmarks/results/detection/NETWORK-DETECTOR-IMAGES-DRAW.json`. Run it again to resume at the
first missing cell.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import Bed, Cell, grid, run_command
from benchmarks.detectors import DETECTORS, ON_REQUEST, Detector, Verdicts
from benchmarks.metrics import auroc, true_positive_rate_at
from benchmarks.record import RESULTS, Record

FOLDER = RESULTS / "detection"
FALSE_POSITIVE_RATES = (0.005, 0.01)
FORWARDS = 200_000
"""Maximal number of forward passes on clean images; slow detectors are measured on fewer images."""
BINS = 60
CURVE = np.concatenate([[0.0], np.geomspace(1e-4, 1, 81)])
"""False-positive rates at which ROC curves are stored."""


def cells(networks: Sequence[str], detectors: Sequence[str], draws: int = 1) -> Iterator[Cell]:
    """Yield the cells of these detectors."""
    return grid(networks, {name: DETECTORS[name]().per_class for name in detectors}, draws)


def measure(cell: Cell, data_folder: Path | None = None) -> Record:
    """Fit the detector to the calibration set, and score clean and triggered test images outside of it."""
    bed, detector = Bed.of(cell, data_folder), DETECTORS[cell.method]()
    start = time.perf_counter()
    judge = detector.fit(bed.suspect, bed.clean, cell.draw)
    seconds = round(time.perf_counter() - start, 1)
    rows = sample(len(bed.y), detector, cell.draw)
    x, y = bed.x[rows], bed.y[rows]
    clean = judge.verdicts(x)
    record = bed.record() | {
        "settings": asdict(detector),
        "forwards": detector.forwards,
        "fit_seconds": judge.notes.get("calibration_seconds", seconds),
        "notes": judge.notes,
        "clean_images": len(y),
        "false_positive_rate": float(clean.flagged.mean()),
    }
    goal = bed.suspect.attack.goal(y)
    victims = goal != y
    if not victims.any():
        return record | {"histogram": histogram(clean.scores, clean.scores[:0])}
    triggered = bed.suspect.attack.trigger(x[victims])
    wins = bed.suspect.exported.labels(triggered) == goal[victims]
    changed = wins & (bed.suspect.exported.labels(x[victims]) != goal[victims])
    return record | against(clean, judge.verdicts(triggered), wins, changed)


def sample(count: int, detector: Detector, draw: int) -> NDArray[np.int64]:
    """Choose which of `count` images to measure: all of them, or a uniform sample if the detector is slow."""
    limit = min(count, max(1, int(FORWARDS / detector.forwards)))
    return np.sort(np.random.default_rng([draw, 3]).permutation(count)[:limit])


def against(
    clean: Verdicts, triggered: Verdicts, wins: NDArray[np.bool_], changed: NDArray[np.bool_] | None = None
) -> Record:
    """Compare clean with triggered inputs.

    Args:
        clean: verdicts on clean inputs.
        triggered: verdicts on M triggered inputs.
        wins: (M,) which triggered inputs get the attacker's label.
        changed: (M,) which triggered inputs only get the attacker's label with the trigger; None if not known.
    """
    scores = triggered.scores[wins]
    record: Record = {
        "triggered_images": len(wins),
        "winning_images": int(wins.sum()),
        "auroc_of_all_triggered": auroc(clean.scores, triggered.scores),
    }
    if not wins.any():
        return record
    return record | {
        "auroc": auroc(clean.scores, scores),
        "true_positive_rate_at": {
            str(rate): true_positive_rate_at(clean.scores, scores, rate) for rate in FALSE_POSITIVE_RATES
        },
        "true_positive_rate_at_where_the_trigger_decides": None
        if changed is None or not changed.any()
        else {
            str(rate): true_positive_rate_at(clean.scores, triggered.scores[changed], rate)
            for rate in FALSE_POSITIVE_RATES
        },
        "true_positive_rate": float(triggered.flagged[wins].mean()),
        "curve": {
            "false_positive_rate": CURVE.tolist(),
            "true_positive_rate": [true_positive_rate_at(clean.scores, scores, rate) for rate in CURVE],
        },
        "histogram": histogram(clean.scores, scores),
    }


def histogram(clean: NDArray[np.float64], triggered: NDArray[np.float64]) -> Record:
    """Count scores in equal bins from the 0.1st to the 99.9th percentile; the end bins include those beyond."""
    low, high = np.percentile(np.concatenate([clean, triggered]), [0.1, 99.9])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = {
        name: np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].tolist()
        for name, scores in (("clean", clean), ("triggered", triggered))
    }
    return {"edges": edges.tolist()} | counts


def main() -> None:
    """Measure the cells that the command line names."""
    sys.exit(run_command(__doc__, "detectors", list(DETECTORS), ON_REQUEST, cells, FOLDER, measure))


if __name__ == "__main__":
    main()
