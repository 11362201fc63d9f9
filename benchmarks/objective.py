"""Measure the value of Eq. 4 that each preset reaches and how long it takes, in one run on the same hardware.

    python -m benchmarks.objective --networks cifar10-resnet20-badnets-seed0 --presets default reference

Each preset calibrates as a user does. Then the margins of its clipped network are searched again, with other random
numbers, more maximisers and more steps than any preset has: from clean inputs, from noise, and with perturbations that
inputs share. Writes `benchmarks/results/objective/NETWORK.json`.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import mmguard
from benchmarks.cells import PER_CLASS, Bed, Cell
from benchmarks.environment import environment
from benchmarks.guarded import write_clean
from benchmarks.record import RESULTS, Record, write_json
from benchmarks.suspect import Suspect
from mmguard import Bundle
from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.calibrator import Round
from mmguard.calibrate.learning.margin_search import MarginSearch
from mmguard.exporter.classifier import read_classifier
from mmguard.inputs.preprocessing import PreprocessingOptions
from mmguard.settings import PRESETS, preset
from mmguard.settings.settings import Settings

FOLDER = RESULTS / "objective"
WEIGHT = 0.1
"""λ of Eq. 4, for the mean over classes and maximisers; the presets `paper` and `default` start from it."""
SEED = 7
STEPS = 100
SEARCHES = {
    "from clean inputs": Settings(maximisers=50, shared_share=0.0),
    "from noise": Settings(maximisers=50, shared_share=0.0, noise=1.0),
    "shared": Settings(maximisers=50, shared_share=1.0),
}


class Judge:
    """Evaluates Eq. 4 on one network and calibration set, for any bounds."""

    def __init__(self, bed: Bed) -> None:
        classifier = read_classifier(bed.suspect.path)
        self._graph = DifferentiableGraph(classifier.model, classifier.output.logits)
        self._x = torch.from_numpy(bed.suspect.exported.inputs(bed.clean.x))
        self._box = _box(bed.suspect)
        self._original = self._logits({})

    def __call__(self, bundle: Bundle) -> Record:
        """Return both terms, and the mean margin that each search reached."""
        bounds = {value: torch.from_numpy(bound) for value, bound in bundle.bounds().items()}
        fit = float((self._logits(bounds) - self._original).square().mean())
        margins = {name: self._margins(settings, bounds) for name, settings in SEARCHES.items()}
        largest = np.max(list(margins.values()), axis=0)
        return {
            "fit": fit,
            "margin": float(largest.mean()),
            "objective": fit + WEIGHT * float(largest.mean()),
            "margin_by_search": {name: float(values.mean()) for name, values in margins.items()},
        }

    def _margins(
        self, settings: Settings, bounds: dict[str, torch.Tensor]
    ) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        classes = self._original.shape[1]
        settings = replace(settings, search_budget=settings.maximisers * classes)
        generator = torch.Generator().manual_seed(SEED)
        search = MarginSearch(self._graph, self._x, self._box, classes, settings, generator)
        search.ascend(bounds, STEPS)
        return search.margins(bounds).numpy()

    @torch.no_grad()
    def _logits(self, bounds: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([self._graph(part, bounds or None) for part in self._x.split(100)])


def _box(suspect: Suspect) -> Box:
    mean, std = (torch.tensor(suspect.record[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    return Box((0 - mean) / std, (1 - mean) / std)


def _calibrated(suspect: Suspect, clean: Path, path: Path, settings: Settings) -> tuple[Bundle, float]:
    """The bundle, and the seconds until its bounds were learned: without what cross-fitting and the audit take."""
    rounds, seconds = settings.rounds, 0.0

    def watch(each: Round) -> None:
        nonlocal seconds
        if each.number <= rounds:  # later rounds belong to cross-fitting
            seconds = round(each.seconds, 1)

    mean, deviation = (suspect.record[key] for key in ("mean", "std"))
    preprocessing = PreprocessingOptions(mean=mean, std=deviation).preprocessing()
    mmguard.calibrate_model(
        suspect.path, clean, settings=settings, out=path, preprocessing=preprocessing, on_round=watch
    )
    return Bundle.open(path), seconds


def measure(network: str, presets: list[str], data_folder: Path | None) -> Record:
    """Calibrate with each preset, and evaluate its bounds."""
    cell = Cell(network, "objective")
    bed = Bed.of(cell, data_folder)
    judge, found = Judge(bed), {}
    with tempfile.TemporaryDirectory() as folder:
        write_clean(Path(folder) / "clean", bed.clean)
        for name in presets:
            bundle, seconds = _calibrated(
                bed.suspect, Path(folder) / "clean", Path(folder) / f"{name}.mmguard", preset(name)
            )
            found[name] = {"bounds_seconds": seconds, "seconds": bundle.provenance()["seconds"]} | judge(bundle)
    return {"network": network, "per_class": PER_CLASS, "weight": WEIGHT, "search_seed": SEED, "presets": found}


def main() -> None:
    """Measure each network and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["cifar10-resnet20-badnets-seed0"], metavar="NETWORK")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["default", "reference"])
    parser.add_argument("--data-folder", type=Path, help="folder with the data set's archive; default MMGUARD_DATA")
    options = parser.parse_args()
    for network in options.networks:
        record = measure(network, options.presets, options.data_folder)
        write_json(FOLDER / f"{network}.json", record | environment())


if __name__ == "__main__":
    main()
