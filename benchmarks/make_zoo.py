"""Train the networks of `benchmarks/zoo/`, on which everything is measured: `python -m benchmarks.make_zoo`.

The zoo is frozen: existing networks are never changed. Missing ones are trained in the cache, with a checkpoint, as
`benchmarks.train` does, and copied when they are done. Each takes about 15 minutes on two CPU cores.
"""

import argparse
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import cifar, train
from benchmarks.suspect import ZOO
from benchmarks.training.networks import NETWORKS
from benchmarks.training.recipe import Recipe

logger = logging.getLogger("benchmarks.make_zoo")

RECIPES = (
    Recipe(attack="none", epochs=10),
    Recipe(attack="chessboard", epochs=10),
    Recipe(attack="badnets", epochs=10),
    Recipe(attack="blend", epochs=12),
    Recipe(attack="wanet", epochs=14),
    Recipe(attack="input_aware", epochs=14),
    Recipe(attack="clean_label", epochs=10),
    Recipe(attack="badnets_all_to_all", epochs=10),
    Recipe(attack="source_specific", epochs=10),
    Recipe(attack="adaptive_blend", epochs=12),
    Recipe(attack="guard_aware", epochs=10),
    Recipe(attack="sig", epochs=10),
)
"""Triggers that are harder to learn get more epochs."""


def add(recipe: Recipe, options: argparse.Namespace) -> None:
    """Train a network unless the zoo has it, and copy its files: ONNX, JSON, and the trigger if it is learnt.

    Raises:
        OutOfTimeError: `options.minutes` have passed; call again to resume.
    """
    if (ZOO / f"{recipe.name}.json").is_file():
        return
    trained = cifar.CACHE / "networks" / recipe.name
    train.run(recipe, trained, options.data_folder, True, options.device, options.minutes)
    ZOO.mkdir(exist_ok=True)
    for suffix in ("trigger.safetensors", "onnx", "json"):  # the JSON last, because it marks the network as complete
        if (file := trained / f"{recipe.name}.{suffix}").is_file():
            shutil.copyfile(file, ZOO / file.name)


def chosen(options: argparse.Namespace) -> list[Recipe]:
    """Return the recipes of the chosen attacks, with the architecture, epochs and seed that the options change."""
    given = {"network": options.network, "epochs": options.epochs, "seed": options.seed}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return [replace(recipe, **changes) for recipe in RECIPES if recipe.attack in options.attacks]


def main() -> None:
    """Train all chosen networks that the zoo lacks."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    attacks = [recipe.attack for recipe in RECIPES]
    parser.add_argument("--attacks", nargs="+", choices=attacks, default=attacks, metavar="ATTACK")
    parser.add_argument("--network", choices=sorted(NETWORKS), help="architecture; default: as in the recipes")
    parser.add_argument("--epochs", type=int, help="default: as in the recipes")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device to train on")
    parser.add_argument("--minutes", type=float, help="time limit per network; run again to resume")
    parser.add_argument("--data-folder", type=Path, help="folder with the data set's archive; default MMGUARD_DATA")
    options = parser.parse_args()
    for recipe in chosen(options):
        try:
            add(recipe, options)
        except train.OutOfTimeError as stopped:
            logger.info("%s", stopped)


if __name__ == "__main__":
    main()
