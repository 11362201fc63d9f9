"""Guard the networks on features and on series, and measure the guard: `python -m benchmarks.arrays.detect`.

Each is calibrated with the defaults of `mmguard.calibrate_model` on some of its held-out rows and measured on the rest.
Writes `benchmarks/results/arrays/NETWORK-drawN.json`.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

import mmguard
from benchmarks.arrays.suspect import ArraySuspect
from benchmarks.environment import environment
from benchmarks.metrics import auroc, true_positive_rate_at
from benchmarks.record import RESULTS, Record, write_json
from benchmarks.suspect import ZOO
from mmguard.detection.margins import margin

FOLDER = RESULTS / "arrays"
ARRAYS = ZOO / "arrays"
PER_CLASS = 50
RATE = 0.005


def measure(name: str, draw: int) -> Record:
    """Calibrate a guard, and compare its p-values and the original network's margins on clean and triggered rows."""
    suspect = ArraySuspect.load(name)
    clean, rest = suspect.split(PER_CLASS, draw)
    x, y = rest.x, rest.y
    with TemporaryDirectory() as folder:
        bundle = mmguard.calibrate_model(
            suspect.path, (clean.x, clean.y), out=Path(folder) / "guard.mmguard", seed=draw, audit=False
        )
        with mmguard.Guard(bundle, registry=None) as guard:
            decision = guard(x)
            record: Record = {
                "network": name,
                "draw": draw,
                "clean_inputs": len(x),
                "accuracy": {
                    "without": float((decision.original_labels == y).mean()),
                    "with": float((decision.labels == y).mean()),
                },
                "false_positive_rate": float(decision.flagged.mean()),
                "evidence": [site.value for site in guard.bundle.manifest.evidence],
            }
            goal = np.full_like(y, suspect.attack.target)
            victims = goal != y
            if suspect.record["recipe"]["attack"] == "none":
                return record
            triggered = suspect.attack.trigger(x[victims])
            found = guard(triggered)
            wins = found.original_labels == goal[victims]
            scores = {
                "mmguard": (-decision.p_values, -found.p_values[wins]),
                "original margin": (margins(suspect, x), margins(suspect, triggered[wins])),
            }
            reasons, counts = np.unique(found.reasons[wins], return_counts=True)
    return record | {
        "winning_inputs": int(wins.sum()),
        "true_positive_rate": float(found.flagged[wins].mean()),
        "attack_success": {
            "without": float(wins.mean()),
            "with": float((found.labels == goal[victims]).mean()),
        },
        "triggered_accuracy": float((found.labels == y[victims]).mean()),
        "auroc": {who: auroc(*pair) for who, pair in scores.items()},
        "true_positive_rate_at": {who: true_positive_rate_at(*pair, RATE) for who, pair in scores.items()},
        "reasons": dict(zip(map(str, reasons), map(int, counts), strict=True)),
    }


def margins(suspect: ArraySuspect, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the original network's margins (N,) of its decisions, in logits."""
    logits = suspect.logits(x)
    return margin(logits, logits.argmax(axis=1))


def main() -> None:
    """Measure every network on features or series that has no JSON yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="draws of the calibration set per network")
    options = parser.parse_args()
    for path in sorted(ARRAYS.glob("*.onnx")):
        for draw in range(options.draws):
            target = FOLDER / f"{path.stem}-draw{draw}.json"
            if not target.is_file():
                write_json(target, measure(path.stem, draw) | environment())


if __name__ == "__main__":
    main()
