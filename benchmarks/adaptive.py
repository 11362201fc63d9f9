"""Attack the guard itself, as someone who has the bundle could: find inputs that fool both networks in the same way.

    python -m benchmarks.adaptive --networks cifar10-resnet20-none-seed0 cifar10-resnet20-badnets-seed0

Such an attacker did not plant the backdoor, and searches for an adversarial perturbation or patch instead. It is learnt
by gradient ascent on the smaller of the two networks' margins of the target class, so that the networks do not differ.
It is learnt on images outside the calibration set, and measured on others. Writes
`benchmarks/results/adaptive/NETWORK.json`.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.cells import PER_CLASS, Bed, Cell
from benchmarks.cifar import Images
from benchmarks.environment import environment
from benchmarks.guarded import bundle_of, decide
from benchmarks.record import RESULTS, Record, write_json
from mmguard import Bundle, Guard
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.objective import class_margins
from mmguard.exporter.classifier import read_classifier

FOLDER = RESULTS / "adaptive"
TARGET = 0
LEARNT, MEASURED = 500, 2000
"""Number of images to learn the attack on, and to measure it on."""
STEPS, BATCH = 300, 50
CONFIDENT = 5.0
"""Margin in logits from which on an image no longer counts in the ascent."""

Apply = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """A way to change an image. Its parameters (1, 3, 32, 32) in [-1, 1] start at 0."""

    name: str
    step: float
    apply: Apply


def _perturbation(radius: float) -> Shape:
    return Shape(f"shared perturbation of {radius:.0f}/255", 0.05, lambda x, p: (x + p * radius / 255).clamp(0, 1))


def _patch(size: int) -> Shape:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., -size:, -size:] = 1
    return Shape(f"patch of {size} × {size}", 0.05, lambda x, p: x * (1 - mask) + mask * (p + 1) / 2)


SHAPES = (_perturbation(4), _perturbation(8), _patch(3), _patch(6))


class Attacker:
    """An attacker who has both networks of a bundle, and their gradients."""

    def __init__(self, bundle: Bundle, bed: Bed) -> None:
        classifier = read_classifier(bed.suspect.path)
        self._graph = DifferentiableGraph(classifier.model, classifier.output.logits)
        self._bounds = {value: torch.from_numpy(bound) for value, bound in bundle.bounds().items()}
        record = bed.suspect.record
        self._mean, self._std = (torch.tensor(record[key]).view(1, -1, 1, 1) for key in ("mean", "std"))

    def learn(self, shape: Shape, x: Images) -> Callable[[Images], Images]:
        """Learn a change that fools both networks on most of the images (N, 32, 32, 3)."""
        images = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
        generator = torch.Generator().manual_seed(0)
        parameters = torch.zeros(1, *images.shape[1:])
        for _ in range(STEPS):
            rows = torch.randperm(len(images), generator=generator)[:BATCH]
            moving = parameters.clone().requires_grad_()
            margin = self._smaller_margin(shape.apply(images[rows], moving))
            gradient = torch.autograd.grad(margin.clamp(max=CONFIDENT).sum(), moving)[0]
            parameters = (parameters + shape.step * gradient.sign()).clamp(-1, 1)

        def change(x: Images) -> Images:
            changed = shape.apply(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255, parameters)
            return (changed * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()

        return change

    def _smaller_margin(self, images: Tensor) -> Tensor:
        x = (images - self._mean) / self._std
        classes = torch.full((len(x),), TARGET)
        margins = [class_margins(self._graph(x, bounds), classes) for bounds in (None, self._bounds)]
        return torch.minimum(*margins)


def measure(network: str, data_folder: Path | None) -> Record:
    """Learn and measure every kind of change on one network."""
    bed = Bed.of(Cell(network, "adaptive"), data_folder)
    bundle = bundle_of(bed.suspect, bed.clean, "default", None, 0)
    attacker, victims = Attacker(bundle, bed), np.flatnonzero(bed.y != TARGET)
    learnt, measured = bed.x[victims[:LEARNT]], bed.x[victims[LEARNT : LEARNT + MEASURED]]
    shapes = {}
    with Guard(bundle, registry=None) as guard:
        for shape in SHAPES:
            decision = decide(guard, attacker.learn(shape, learnt)(measured))
            shapes[shape.name] = {
                "attack_success": {
                    "without": float((decision.original_labels == TARGET).mean()),
                    "with": float((decision.labels == TARGET).mean()),
                },
                "flagged": float(decision.flagged.mean()),
            }
    return {"network": network, "per_class": PER_CLASS, "seed": 0, "images": len(measured), "shapes": shapes}


def main() -> None:
    """Attack the guard of each network and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = [f"cifar10-resnet20-{name}-seed0" for name in ("none", "badnets", "guard_aware")]
    parser.add_argument("--networks", nargs="+", default=networks, metavar="NETWORK")
    parser.add_argument("--data-folder", type=Path, help="folder with the data set's archive; default MMGUARD_DATA")
    options = parser.parse_args()
    for network in options.networks:
        write_json(FOLDER / f"{network}.json", measure(network, options.data_folder) | environment())


if __name__ == "__main__":
    main()
