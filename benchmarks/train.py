"""Train a CIFAR network with a backdoor, export it to ONNX, and record its accuracy and attack success.

    python -m benchmarks.train --data cifar10 --network resnet20 --attack badnets --epochs 7 --seed 0
    python -m benchmarks.train --network resnet32 --attack none --profile LT-100 --objective GCL --device cuda

Writes NAME.onnx and NAME.json to --out. Takes minutes on two CPU cores, and resumes after an interruption.
"""

import argparse
import logging
import math
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np

from benchmarks import cifar, evaluate
from benchmarks.attacks import ATTACKS, Learnt, Role, learnt_path
from benchmarks.environment import environment
from benchmarks.record import write_json
from benchmarks.training.imbalance import PROFILES
from benchmarks.training.networks import NETWORKS
from benchmarks.training.objectives import OBJECTIVES
from benchmarks.training.recipe import OPTIMISERS, Recipe
from benchmarks.training.trainer import OutOfTimeError, Trainer

__all__ = ["OutOfTimeError", "Recipe", "Trainer", "measure", "run"]

logger = logging.getLogger("benchmarks.train")  # __name__ is __main__ here


def measure(trainer: Trainer, data: cifar.Cifar, model: Path) -> dict[str, object]:
    """Return the content of NAME.json; accuracy and attack success are of the exported file on all test images."""
    exported = evaluate.Exported(model, trainer.mean, trainer.deviation)
    success, victims = evaluate.attack_success(exported, trainer.attack, data.x_test, data.y_test)
    labels = exported.labels(data.x_test)
    return {
        "name": trainer.recipe.name,
        "recipe": asdict(trainer.recipe),
        "seed": trainer.recipe.seed,
        "attack": trainer.attack.parameters(),
        "poisoned_images": int((trainer.roles == Role.POISONED).sum()),
        "class_sizes": np.bincount(trainer.y, minlength=data.classes).tolist(),
        "clean_accuracy": float((labels == data.y_test).mean()),
        "per_class_accuracy": evaluate.per_class_accuracy(labels, data.y_test).tolist(),
        "attack_success": success,
        "clean_images": len(data.x_test),
        "triggered_images": victims,
        "sha256": {path.suffix: sha256(path.read_bytes()).hexdigest() for path in files_of(model)},
        "mean": trainer.mean.tolist(),
        "std": trainer.deviation.tolist(),
        "training_seconds": round(trainer.seconds, 1),
        "training_device": trainer.device.type,
    } | environment()


def files_of(model: Path) -> list[Path]:
    """Return the files of a trained network: the ONNX file, and the trigger if it is learnt."""
    return [path for path in (model, learnt_path(model)) if path.is_file()]


def run(
    recipe: Recipe,
    out: Path,
    data_folder: Path | None,
    resume: bool,
    device: str = "cpu",
    minutes: float | None = None,
) -> dict[str, object]:
    """Train, export and measure a network, and return its record.

    Raises:
        OutOfTimeError: `minutes` have passed before the last epoch; call again to resume.
    """
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    data = cifar.load(recipe.data, data_folder)
    out.mkdir(parents=True, exist_ok=True)
    trainer, checkpoint = Trainer(recipe, data, device), out / f"{recipe.name}.checkpoint"
    if resume and checkpoint.is_file():
        trainer.restore(checkpoint)
    trainer.train(checkpoint, deadline)
    model = out / f"{recipe.name}.onnx"
    evaluate.export(trainer.finish(), model)
    if isinstance(trainer.attack, Learnt):
        trainer.attack.save(learnt_path(model))
    record = measure(trainer, data, model)
    write_json(out / f"{recipe.name}.json", record)
    return record


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the defaults are those of `Recipe`."""
    parser = argparse.ArgumentParser(description="Train a CIFAR network with a backdoor and export it to ONNX.")
    parser.add_argument("--data", choices=["cifar10", "cifar100"], default=Recipe.data)
    parser.add_argument("--network", choices=sorted(NETWORKS), default=Recipe.network)
    parser.add_argument("--attack", choices=sorted(ATTACKS), default=Recipe.attack)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--target", type=int, default=Recipe.target, help="target class")
    parser.add_argument(
        "--rate", type=float, default=Recipe.rate, help="share of training images to poison; 0: the attack's own"
    )
    parser.add_argument("--optimiser", choices=sorted(OPTIMISERS), default=Recipe.optimiser)
    parser.add_argument("--peak-learning-rate", type=float, default=Recipe.peak_learning_rate)
    parser.add_argument("--weight-decay", type=float, default=Recipe.weight_decay)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default=Recipe.precision)
    parser.add_argument("--train-images", type=int, help="train only on the first N images, for a quick test")
    parser.add_argument("--profile", choices=sorted(PROFILES), default=Recipe.profile, help="class imbalance")
    parser.add_argument("--objective", choices=sorted(OBJECTIVES), default=Recipe.objective)
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/.cache/networks/NAME")
    parser.add_argument("--data-folder", type=Path, help="folder with the data set's archive; default MMGUARD_DATA")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device to train on")
    parser.add_argument(
        "--minutes", type=float, help="stop after the epoch in which this time has passed; run again to resume"
    )
    return parser.parse_args(arguments)


def main() -> None:
    """Train the network that the command line describes."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    options = vars(parse())
    out, *rest = (options.pop(key) for key in ("out", "data_folder", "resume", "device", "minutes"))
    recipe = Recipe(**options)
    try:
        record = run(recipe, out or cifar.CACHE / "networks" / recipe.name, *rest)
    except OutOfTimeError as stopped:
        logger.info("%s", stopped)
        return
    logger.info("clean accuracy %s, attack success %s", record["clean_accuracy"], record["attack_success"])


if __name__ == "__main__":
    main()
