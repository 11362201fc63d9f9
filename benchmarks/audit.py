"""Audit every network: is it judged backdoored, and for which class?

    python -m benchmarks.audit                                    # every network without a JSON
    python -m benchmarks.audit --networks cifar10-resnet20-badnets-seed0 --draws 3

Writes `benchmarks/results/audit/NETWORK-MM-BD-50-DRAW.json`. Run it again to resume at the first missing one.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cells import Bed, Cell, grid, run_command
from benchmarks.cifar import Images
from benchmarks.record import RESULTS, Record
from benchmarks.suspect import Suspect
from mmguard.calibrate.audit.search import maximum_margins
from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.detection.audit import Audit, audit
from mmguard.exporter.classifier import read_classifier
from mmguard.inputs.preprocessing import pixel_box
from mmguard.inputs.spec import Preprocessing
from mmguard.types import FloatArray

FOLDER = RESULTS / "audit"
METHOD = "MM-BD"


def cells(networks: Sequence[str], methods: Sequence[str], draws: int = 1) -> Iterator[Cell]:
    """Yield one cell per network and draw of the calibration set."""
    return grid(networks, dict.fromkeys(methods, 0), draws)


def measure(cell: Cell, data_folder: Path | None = None) -> Record:
    """Audit a network from its calibration set, and compare the verdict with the attack; seconds are processor time."""
    bed, start = Bed.of(cell, data_folder), time.process_time()
    margins = search(bed.suspect, bed.clean.x, cell.draw)
    seconds = round(time.process_time() - start, 1)
    found = audit(margins)
    labels = np.arange(len(next(iter(margins.values()))))
    goal = bed.suspect.attack.goal(labels)
    targets = sorted(set(goal[goal != labels].tolist()))
    return bed.record() | verdict(found, targets) | {"search_seconds": seconds} | others(margins, targets)


def search(suspect: Suspect, x: Images, seed: int) -> dict[str, FloatArray]:
    """Search maximum margins by scale, starting from clean images (N, 32, 32, 3) uint8."""
    mean, deviation = suspect.record["mean"], suspect.record["std"]
    preprocessing = Preprocessing(mode="RGB", mean=tuple(mean), std=tuple(deviation))
    classifier = read_classifier(suspect.path)
    graph = DifferentiableGraph(classifier.model, classifier.output.logits)
    images = (x.astype(np.float32) / 255 - np.float32(mean)) / np.float32(deviation)
    clean = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    box = Box.of(*pixel_box(preprocessing))
    return maximum_margins(graph, clean, box, suspect.logits(x[:1]).shape[1], seed=seed).margins


def verdict(found: Audit, targets: Sequence[int]) -> Record:
    """Return the audit's verdict with all its numbers, and whether it is right for a network with these targets."""
    return {
        "targets": targets,
        "backdoored": found.backdoored,
        "suspect": found.suspect,
        "right": found.suspect in targets if found.backdoored else not targets,
        "p_value": found.p_value,
        "scale": found.scale,
        "scales": {
            name: {
                "margins": scale.margins.tolist(),
                "suspect": scale.suspect,
                "p_value": scale.p_value,
                "left_out": list(scale.left_out),
            }
            for name, scale in found.scales.items()
        },
    }


def others(margins: Mapping[str, FloatArray], targets: Sequence[int]) -> Record:
    """Return the p-value without the target classes. All others are clean, so it should not be small."""
    if len(targets) > 1:
        return {}
    return {"p_value_of_others": audit({name: np.delete(values, targets) for name, values in margins.items()}).p_value}


def main() -> None:
    """Audit the networks that the command line names."""
    sys.exit(run_command(__doc__, "methods", [METHOD], (), cells, FOLDER, measure))


if __name__ == "__main__":
    main()
