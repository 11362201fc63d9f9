"""Train the networks of `benchmarks/zoo/`, on which everything is measured: `python -m benchmarks.make_zoo`.

The zoo is frozen: existing networks are never changed. Missing ones are trained in the cache, with a checkpoint, as
`benchmarks.train` does, and copied when they are done. Each takes 15 to 30 minutes on a CPU core. The repository holds
as many of them as fit in 20 MB.
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

VIT = Recipe(
    network="vit64_4",
    epochs=12,
    optimiser="AdamW",
    peak_learning_rate=2e-3,
    weight_decay=0.05,
    precision="float32",
)
MOBILENET = Recipe(network="mobilenetv2_035", epochs=12, peak_learning_rate=0.1, precision="float32")

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
    Recipe(attack="distance_aware", epochs=5),
    *(
        Recipe(attack=attack, epochs=epochs, target=target, seed=seed)
        for seed, target in ((1, 3), (2, 7))
        for attack, epochs in (("wanet", 14), ("adaptive_blend", 12), ("input_aware", 14), ("badnets", 10))
    ),
    *(
        replace(network, attack=attack, rate=0.0)  # the attack's own rate
        for network in (VIT, MOBILENET)
        for attack in ("badnets", "blend")
    ),
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
    """Return the recipes of the chosen attacks with the network, seed and epochs of the options."""
    recipes = [recipe for recipe in RECIPES if recipe.attack in options.attacks]
    for field in ("network", "seed"):
        recipes = _with(recipes, field, getattr(options, field))
    return recipes if options.epochs is None else [replace(recipe, epochs=options.epochs) for recipe in recipes]


def _with(recipes: list[Recipe], field: str, value: Any) -> list[Recipe]:
    """Select the recipes with this value; if there are none, change those that have the usual value."""
    if value is None:
        return recipes
    selected = [recipe for recipe in recipes if getattr(recipe, field) == value]
    usual = [recipe for recipe in recipes if getattr(recipe, field) == getattr(Recipe, field)]
    return selected or [replace(recipe, **{field: value}) for recipe in usual]


def main() -> None:
    """Train all chosen networks that the zoo lacks."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    attacks = sorted({recipe.attack for recipe in RECIPES})
    parser.add_argument("--attacks", nargs="+", choices=attacks, default=attacks, metavar="ATTACK")
    parser.add_argument(
        "--network",
        choices=sorted(NETWORKS),
        help="networks with this architecture; if no recipe has it, that of the ResNet-20s is changed",
    )
    parser.add_argument("--epochs", type=int, help="default: as in the recipes")
    parser.add_argument("--seed", type=int, help="networks with this seed; if no recipe has it, seed 0 is changed")
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
