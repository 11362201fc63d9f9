"""Train a CIFAR network with a backdoor, export it to ONNX and record how good both are.

    python -m benchmarks.train --data cifar10 --network resnet20 --attack badnets --epochs 7 --seed 0

writes NAME.onnx and NAME.json into --out. It takes minutes on two CPU cores and resumes after an interruption.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from benchmarks import cifar, evaluate
from benchmarks.attacks import ATTACKS, Attack, Learnt, Role, Roles, hook_of, learnt_path, own_rate
from benchmarks.augment import crop_and_flip
from benchmarks.environment import environment
from benchmarks.networks import NETWORKS

logger = logging.getLogger("benchmarks.train")  # __name__ is __main__ here


@dataclass(frozen=True)
class Recipe:
    """All that decides what is trained; two runs of one recipe differ only in rounding.

    Optimiser: SGD with Nesterov momentum under a one-cycle schedule of the learning rate (Smith and Topin 2019).
    A `rate` of 0 stands for the own rate of the attack (see its class), and is replaced by it. The attack
    `none` trains a clean network.
    """

    data: str = "cifar10"
    network: str = "resnet20"
    attack: str = "badnets"
    target: int = 0
    rate: float = 0.0
    epochs: int = 7
    seed: int = 0
    batch_size: int = 128
    peak_learning_rate: float = 0.2
    warm_up: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "bfloat16"
    train_images: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", self.rate or own_rate(self.attack))

    @property
    def name(self) -> str:
        """Short name of the network that comes out, for files."""
        return f"{self.data}-{self.network}-{self.attack}-seed{self.seed}"


class Trainer:
    """Trains one recipe epoch by epoch; its state between epochs is a checkpoint file."""

    def __init__(self, recipe: Recipe, data: cifar.Cifar) -> None:
        self.recipe = recipe
        self.x, self.y = data.x_train[: recipe.train_images], data.y_train[: recipe.train_images]
        self.mean, self.deviation = data.statistics()
        self.attack: Attack = ATTACKS[recipe.attack](recipe.target, recipe.rate)
        self.hook = hook_of(self.attack)
        self.roles: Roles = self.attack.assign(self.y, np.random.default_rng([recipe.seed, 0]))
        torch.manual_seed(recipe.seed)
        self.network = NETWORKS[recipe.network](data.classes)
        self.hook.watch(self.network)
        convert_conv2d_weight_memory_format(self.network, torch.channels_last)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.peak_learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=recipe.peak_learning_rate,
            total_steps=recipe.epochs * self.steps,
            pct_start=recipe.warm_up,
            cycle_momentum=False,
        )
        self.epoch, self.seconds = 0, 0.0

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last, smaller one is left out."""
        return len(self.x) // self.recipe.batch_size

    def train(self, checkpoint: Path) -> None:
        """Run the epochs that are left, writing the checkpoint after each."""
        start = time.perf_counter()
        if self.epoch == 0:
            self.hook.prepare(self.x, self.y, self.roles, self.recipe.seed)
        self.x = self.hook.images(self.x, self.roles)
        self.seconds += time.perf_counter() - start
        while self.epoch < self.recipe.epochs:
            start = time.perf_counter()
            if self.hook.redraws:
                self.roles = self.attack.assign(self.y, np.random.default_rng([self.recipe.seed, 0, self.epoch]))
            loss = self.train_epoch()
            self.epoch += 1
            self.seconds += time.perf_counter() - start
            self.save(checkpoint)
            logger.info("epoch %d of %d: loss %.3f, %.0f s in all", self.epoch, self.recipe.epochs, loss, self.seconds)

    def train_epoch(self) -> float:
        """One pass over the training images; the mean loss."""
        self.network.train()
        total = torch.zeros(())
        for images, labels, roles in self.batches():
            joined, extra = self.hook.join(images, roles)
            with self._autocast():
                logits = self.network(self._normalise(joined)).float()
            loss = nn.functional.cross_entropy(logits, labels)
            self.optimiser.zero_grad()
            torch.autograd.backward(loss + extra + self.hook.penalty(logits, roles))
            self.optimiser.step()
            self.hook.step(self.schedule.last_epoch / self.schedule.total_steps)
            self.schedule.step()
            total += loss.detach()
        return float(total) / self.steps

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Roles]]:
        """Augmented, poisoned batches: (B, 3, 32, 32) float32 in [0, 1], channels last, (B,) int64, and roles (B,)."""
        # A generator for each epoch: a resumed run draws what an uninterrupted one would.
        generator = np.random.default_rng([self.recipe.seed, 1, self.epoch])
        order = generator.permutation(len(self.x))[: self.steps * self.recipe.batch_size]
        for rows in np.split(order, self.steps):
            images = crop_and_flip(self.x[rows], generator)
            images, labels = self.attack.poison(images, self.y[rows], self.roles[rows], generator)
            yield self._tensor(images), torch.from_numpy(labels), self.roles[rows]

    def _tensor(self, images: NDArray[np.uint8]) -> Tensor:
        scaled = torch.from_numpy(images).float() / 255
        return scaled.permute(0, 3, 1, 2)  # NHWC in memory is what channels last means: no copy

    def _normalise(self, images: Tensor) -> Tensor:
        mean, deviation = (torch.from_numpy(each).view(3, 1, 1) for each in (self.mean, self.deviation))
        return (images - mean) / deviation

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        return torch.autocast("cpu", torch.bfloat16) if self.recipe.precision == "bfloat16" else nullcontext()

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "hook": self.hook.state(),
        }
        partial = path.with_suffix(f".{os.getpid()}.partial")
        torch.save(state, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint; raises ValueError where it is of another recipe."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} is of another recipe: {state['recipe']}; give another --out or --no-resume")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.hook.restore(state["hook"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        logger.info("resumed after epoch %d", self.epoch)


def measure(trainer: Trainer, data: cifar.Cifar, model: Path) -> dict[str, object]:
    """What NAME.json holds; accuracy and attack success are of the exported file over the whole test split."""
    exported = evaluate.Exported(model, trainer.mean, trainer.deviation)
    success, victims = evaluate.attack_success(exported, trainer.attack, data.x_test, data.y_test)
    return {
        "name": trainer.recipe.name,
        "recipe": asdict(trainer.recipe),
        "seed": trainer.recipe.seed,
        "attack": trainer.attack.parameters(),
        "poisoned_images": int((trainer.roles == Role.POISONED).sum()),
        "clean_accuracy": evaluate.clean_accuracy(exported, data.x_test, data.y_test),
        "attack_success": success,
        "clean_images": len(data.x_test),
        "triggered_images": victims,
        "mean": trainer.mean.tolist(),
        "std": trainer.deviation.tolist(),
        "training_seconds": round(trainer.seconds, 1),
    } | environment()


def run(recipe: Recipe, out: Path, data_folder: Path | None, resume: bool) -> dict[str, object]:
    """Train, export, measure and record; the record."""
    data = cifar.load(recipe.data, data_folder)
    out.mkdir(parents=True, exist_ok=True)
    trainer, checkpoint = Trainer(recipe, data), out / f"{recipe.name}.checkpoint"
    if resume and checkpoint.is_file():
        trainer.restore(checkpoint)
    trainer.train(checkpoint)
    model = out / f"{recipe.name}.onnx"
    evaluate.export(trainer.network, model)
    if isinstance(trainer.attack, Learnt):
        trainer.attack.save(learnt_path(model))
    record = measure(trainer, data, model)
    partial = out / f"{recipe.name}.{os.getpid()}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(out / f"{recipe.name}.json")
    return record


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; the defaults are those of `Recipe`."""
    parser = argparse.ArgumentParser(description="Train a CIFAR network with a backdoor and export it to ONNX.")
    parser.add_argument("--data", choices=["cifar10", "cifar100"], default=Recipe.data)
    parser.add_argument("--network", choices=sorted(NETWORKS), default=Recipe.network)
    parser.add_argument("--attack", choices=sorted(ATTACKS), default=Recipe.attack)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--target", type=int, default=Recipe.target, help="target class")
    parser.add_argument(
        "--rate", type=float, default=Recipe.rate, help="share of training images that is poisoned; 0: the attack's own"
    )
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default=Recipe.precision)
    parser.add_argument("--train-images", type=int, help="train on the first N images only, for a quick trial")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/.cache/networks/NAME")
    parser.add_argument("--data-folder", type=Path, help="folder of unpack.py; default MMGUARD_DATA")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(arguments)


def main() -> None:
    """Entry point of `python -m benchmarks.train`."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    options = vars(parse())
    out, data_folder, resume = (options.pop(key) for key in ("out", "data_folder", "resume"))
    recipe = Recipe(**options)
    record = run(recipe, out or cifar.CACHE / "networks" / recipe.name, data_folder, resume)
    logger.info("clean accuracy %s, attack success %s", record["clean_accuracy"], record["attack_success"])


if __name__ == "__main__":
    main()
