"""Train the networks of `benchmarks/zoo/`, on which everything is measured: `python -m benchmarks.make_zoo`.

The zoo is frozen: a network that is there is left as it is. Any other is trained as `benchmarks.train` does, in the
cache, with its checkpoint, and copied when it is done. On two CPU cores each takes some 15 minutes.
"""

import argparse
import logging
import shutil
from pathlib import Path

from benchmarks import cifar, train
from benchmarks.suspect import ZOO
from benchmarks.train import Recipe

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
"""Longer where the trigger is harder to learn."""


def add(recipe: Recipe, data_folder: Path | None = None) -> None:
    """Train a network, unless the zoo has it, and copy its files: ONNX, JSON, and the trigger if it is learnt."""
    if (ZOO / f"{recipe.name}.json").is_file():
        return
    trained = cifar.CACHE / "networks" / recipe.name
    train.run(recipe, trained, data_folder, resume=True)
    ZOO.mkdir(exist_ok=True)
    for suffix in ("trigger.safetensors", "onnx", "json"):  # the JSON last: with it, the network is there
        if (file := trained / f"{recipe.name}.{suffix}").is_file():
            shutil.copyfile(file, ZOO / file.name)


def main() -> None:
    """Entry point."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, help="folder of unpack.py; default MMGUARD_DATA")
    data_folder = parser.parse_args().data_folder
    for recipe in RECIPES:
        add(recipe, data_folder)


if __name__ == "__main__":
    main()
