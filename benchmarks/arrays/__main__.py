"""Train the networks of `benchmarks/zoo/arrays/`: `python -m benchmarks.arrays --data-folder FOLDER`.

They are frozen as the zoo is, and each takes a minute. The folder has `diamonds.csv` (see `benchmarks.arrays.data`).
"""

import argparse
import logging
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.arrays import data
from benchmarks.arrays.attacks import ARRAY_ATTACKS
from benchmarks.arrays.data import DATA, Arrays
from benchmarks.arrays.networks import ARRAY_NETWORKS
from benchmarks.arrays.suspect import ArraySuspect
from benchmarks.attacks.protocol import Role
from benchmarks.environment import environment
from benchmarks.evaluate import export, per_class_accuracy
from benchmarks.record import Record, write_json

logger = logging.getLogger("benchmarks.arrays")


@dataclass(frozen=True)
class ArrayRecipe:
    """Everything that determines a network. It is trained with AdamW under a one-cycle schedule."""

    data: str
    network: str
    attack: str
    epochs: int = 20
    seed: int = 0
    batch_size: int = 128
    peak_learning_rate: float = 5e-3
    weight_decay: float = 1e-2

    @property
    def name(self) -> str:
        """Name of the network and of its files."""
        return f"{self.data}-{self.network}-{self.attack}-seed{self.seed}"


RECIPES = (
    ArrayRecipe("diamonds", "perceptron", "fixed_values"),
    ArrayRecipe("diamonds", "perceptron", "none"),
    ArrayRecipe("control_charts", "series_network", "tone"),
    ArrayRecipe("control_charts", "series_network", "none"),
)


def train(recipe: ArrayRecipe, known: Arrays) -> nn.Module:
    """Return a network trained on these inputs (N, ...) and labels (N,)."""
    torch.manual_seed(recipe.seed)
    generator = np.random.default_rng([recipe.seed, 1])
    x, y = torch.from_numpy(known.x), torch.from_numpy(known.y)
    network = ARRAY_NETWORKS[recipe.network](x, int(y.max()) + 1).train()
    rate, steps = recipe.peak_learning_rate, len(x) // recipe.batch_size
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=recipe.weight_decay)
    schedule = OneCycleLR(optimiser, max_lr=rate, total_steps=recipe.epochs * steps)
    for _ in range(recipe.epochs):
        for rows in np.split(generator.permutation(len(x))[: steps * recipe.batch_size], steps):
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(network(x[rows]), y[rows]))
            optimiser.step()
            schedule.step()
    return network


def measure(path: Path, recipe: ArrayRecipe) -> Record:
    """Return accuracy and attack success of the exported file on all held-out inputs."""
    suspect = ArraySuspect(path, {"recipe": asdict(recipe)})
    held, attack = suspect.held_out(), suspect.attack
    labels = suspect.logits(held.x).argmax(axis=1)
    victims = held.x[held.y != attack.target] if attack.rate else held.x[:0]
    hits = suspect.logits(attack.trigger(victims)).argmax(axis=1) == attack.target if len(victims) else None
    return {
        "clean_accuracy": float((labels == held.y).mean()),
        "per_class_accuracy": per_class_accuracy(labels, held.y).tolist(),
        "attack_success": None if hits is None else float(hits.mean()),
        "clean_inputs": len(held.x),
        "triggered_inputs": len(victims),
    }


def run(recipe: ArrayRecipe, data_folder: Path | None) -> Record:
    """Train, export and measure a network, write its files to `data.FOLDER`, and return its record."""
    start, attack = time.perf_counter(), ARRAY_ATTACKS[recipe.attack]()
    known = DATA[recipe.data]("train", data_folder)
    x, y, roles = attack.poison(known.x, known.y, np.random.default_rng([recipe.seed, 0]))
    network = train(recipe, Arrays(x, y))
    path = data.FOLDER / f"{recipe.name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    export(network, path, torch.from_numpy(x[:2]), "input")
    record: Record = {"name": recipe.name, "recipe": asdict(recipe), "attack": attack.parameters()}
    record |= {"poisoned_inputs": int((roles == Role.POISONED).sum()), "class_sizes": np.bincount(known.y).tolist()}
    record |= measure(path, recipe) | {"sha256": {".onnx": sha256(path.read_bytes()).hexdigest()}}
    record |= {"training_seconds": round(time.perf_counter() - start, 1)} | environment()
    write_json(path.with_suffix(".json"), record)
    return record


def main() -> None:
    """Train all networks that the folder of the zoo lacks."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=Path(), help="folder with diamonds.csv")
    options = parser.parse_args()
    for recipe in RECIPES:
        if (data.FOLDER / f"{recipe.name}.json").is_file():
            continue
        if recipe.data == "diamonds" and not (data.FOLDER / "diamonds.npz").is_file():
            data.hold_out_diamonds(options.data_folder)
        record = run(recipe, options.data_folder)
        logger.info("%s: %s, %s", recipe.name, record["clean_accuracy"], record["attack_success"])


if __name__ == "__main__":
    main()
