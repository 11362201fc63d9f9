"""Measure what the guard costs: its time divided by that of the model alone, with the screen and without.

    python -m benchmarks.guard_cost
    python -m benchmarks.guard_cost --device cuda

Everything runs in one process on one core, with one thread, as `mmguard bench` measures it. The cost does not depend on
what a network has learnt, so the weights are random, and the bounds are learnt for a few rounds only; the inputs are
CIFAR-10's, so that the screen holds back as many as it should. Writes `benchmarks/results/guard-cost.json`, or
`guard-cost-cuda.json`.
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

import mmguard
from benchmarks import cifar
from benchmarks.environment import environment
from benchmarks.evaluate import export
from benchmarks.record import RESULTS, Record, write_json
from benchmarks.suspect import to_tensor
from benchmarks.training.networks import NETWORKS
from mmguard.guard.sessions import PROVIDERS

PATH = RESULTS / "guard-cost.json"
PER_CLASS = 50
INPUTS = 1000
ROUNDS = 3
SECONDS = 10.0
"""How long each batch size and screen is measured."""


def measure(network: str, data_folder: Path | None, device: Literal["cpu", "cuda"] = "cpu", seed: int = 0) -> Record:
    """Calibrate one architecture of `benchmarks.training.networks`, and measure its guard on unseen images."""
    torch.manual_seed(seed)
    data = cifar.load("cifar10", data_folder)
    chosen, unseen = cifar.calibration_split(data.y_test, PER_CLASS, seed)
    clean, x = (to_tensor(data.x_test[rows]).numpy() for rows in (chosen, unseen[:INPUTS]))
    settings = mmguard.preset(rounds=ROUNDS)
    with TemporaryDirectory() as folder:
        model = Path(folder) / f"{network}.onnx"
        export(NETWORKS[network](10).eval(), model)
        bundle = mmguard.calibrate_model(model, clean, settings=settings, audit=False, seed=seed, device=device)
        found = mmguard.bench(bundle, x, seconds=SECONDS, threads=1, providers=PROVIDERS[device])
    return {"network": network, "seed": seed, "bench": found.to_dict()}


def main() -> None:
    """Measure the chosen architectures on one core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ["resnet20", "resnet32", "mobilenetv2_035", "vit64_4"]
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=usual)
    parser.add_argument("--data-folder", type=Path, help="folder with the data set's archive; default MMGUARD_DATA")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = [measure(network, options.data_folder, options.device) for network in options.networks]
    path = PATH if options.device == "cpu" else PATH.with_stem(f"{PATH.stem}-{options.device}")
    write_json(path, {"networks": rows} | environment())


if __name__ == "__main__":
    main()
