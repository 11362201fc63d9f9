"""Train a recipe: batches, epochs and checkpoints."""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from benchmarks import cifar
from benchmarks.attacks import ATTACKS, Attack, Roles, hook_of
from benchmarks.training.augment import crop_and_flip
from benchmarks.training.imbalance import training_rows
from benchmarks.training.networks import NETWORKS
from benchmarks.training.objectives import Targets, objective_of
from benchmarks.training.recipe import Recipe, optimiser_of

logger = logging.getLogger(__name__)

PLAIN_IMAGES = 500
"""Training images that an objective gets to turn the network into a plain classifier."""


class OutOfTimeError(Exception):
    """The time limit has passed; training can resume from the checkpoint."""


class Trainer:
    """Trains one recipe epoch by epoch; its state between epochs is a checkpoint file.

    Args:
        recipe: what to train.
        data: data set of the recipe.
        device: `cpu` or `cuda`, for the network and its batches. Images are augmented and poisoned on the CPU.
    """

    def __init__(self, recipe: Recipe, data: cifar.Cifar, device: str = "cpu") -> None:
        self.recipe, self.device = recipe, torch.device(device)
        rows = training_rows(
            recipe.profile, data.y_train[: recipe.train_images], np.random.default_rng([recipe.seed, 2])
        )
        self.x, self.y = data.x_train[rows], data.y_train[rows]
        self.mean, self.deviation = data.statistics()
        self.objective = objective_of(recipe.objective, np.bincount(self.y, minlength=data.classes))
        self.attack: Attack = ATTACKS[recipe.attack](recipe.target, recipe.rate)
        self.hook = hook_of(self.attack)
        self.roles: Roles = self.attack.assign(self.y, np.random.default_rng([recipe.seed, 0]))
        torch.manual_seed(recipe.seed)
        self.network = NETWORKS[recipe.network](data.classes)
        self.hook.watch(self.network)
        convert_conv2d_weight_memory_format(self.network, torch.channels_last)
        self.network.to(self.device)
        self._optimise(self.network, recipe.epochs)
        self.epoch, self.seconds = 0, 0.0

    @property
    def steps(self) -> int:
        """Batches per epoch; a smaller last batch is left out."""
        return len(self.x) // self.recipe.batch_size

    @property
    def epochs(self) -> int:
        """Number of epochs, including those that retrain the head."""
        return self.recipe.epochs + self.objective.retraining

    @property
    def retrains(self) -> bool:
        """Whether the current epoch only trains the head."""
        return self.epoch >= self.recipe.epochs

    def train(self, checkpoint: Path, deadline: float = math.inf) -> None:
        """Run the remaining epochs, and write the checkpoint after each.

        Raises:
            OutOfTimeError: `deadline`, in seconds of `time.monotonic`, has passed before the last epoch.
        """
        start = time.perf_counter()
        if self.epoch == 0:
            self.hook.prepare(self.x, self.y, self.roles, self.recipe.seed)
        self.x = self.hook.images(self.x, self.roles)
        self.seconds += time.perf_counter() - start
        while self.epoch < self.epochs:
            start = time.perf_counter()
            if self.epoch == self.recipe.epochs:
                self._optimise_head()
            if self.hook.redraws:
                self.roles = self.attack.assign(self.y, np.random.default_rng([self.recipe.seed, 0, self.epoch]))
            loss = self.train_epoch()
            self.epoch += 1
            self.seconds += time.perf_counter() - start
            self.save(checkpoint)
            logger.info("epoch %d of %d: loss %.3f, %.0f s in total", self.epoch, self.epochs, loss, self.seconds)
            if self.epoch < self.epochs and time.monotonic() > deadline:
                raise OutOfTimeError(
                    f"{self.recipe.name}: {self.epoch} of {self.epochs} epochs done; run again to resume"
                )

    def train_epoch(self) -> float:
        """Run one epoch, and return the mean loss."""
        self.network.train(not self.retrains)
        total = torch.zeros((), device=self.device)
        for images, targets, roles in self.batches():
            joined, extra = self.hook.join(images, roles)
            with self._autocast():
                logits = self.objective.logits(self.network, self._moved(self._normalise(joined)))
            loss = self.objective.loss(logits, tuple(map(self._moved, targets)))
            self.optimiser.zero_grad()
            torch.autograd.backward(loss + extra + self.hook.penalty(logits, roles))
            self.optimiser.step()
            self.hook.step(self.schedule.last_epoch / self.schedule.total_steps)
            self.schedule.step()
            total += loss.detach()
        return float(total) / self.steps

    def batches(self) -> Iterator[tuple[Tensor, Targets, Roles]]:
        """Yield augmented, poisoned, mixed images (B, 3, 32, 32) float32 in [0, 1], with targets and roles (B,)."""
        # Each epoch has its own generator, so that a resumed run draws the same as an uninterrupted one.
        generator = np.random.default_rng([self.recipe.seed, 1, self.epoch])
        count = self.steps * self.recipe.batch_size
        order = self.objective.draw(self.y, count, generator, self.retrains)
        for rows in np.split(order, self.steps):
            images = crop_and_flip(self.x[rows], generator)
            images, labels = self.attack.poison(images, self.y[rows], self.roles[rows], generator)
            batch = self._tensor(images), torch.from_numpy(labels)
            yield *self.objective.mix(*batch, generator, self.retrains), self.roles[rows]

    def finish(self) -> nn.Module:
        """Return the trained network as a plain classifier on the CPU."""
        network = self.network.cpu()
        self.objective.finish(network, self._normalise(self._tensor(self.x[:PLAIN_IMAGES])))
        return network

    def _optimise(self, module: nn.Module, epochs: int) -> None:
        self.optimiser, self.schedule = optimiser_of(self.recipe, module, epochs * self.steps)

    def _optimise_head(self) -> None:
        head = self.network.requires_grad_(False).get_submodule("head").requires_grad_(True)
        self._optimise(head, self.objective.retraining)

    def _tensor(self, images: NDArray[np.uint8]) -> Tensor:
        scaled = torch.from_numpy(images).float() / 255
        return scaled.permute(0, 3, 1, 2)  # NHWC in memory is the channels-last format, so nothing is copied

    def _normalise(self, images: Tensor) -> Tensor:
        mean, deviation = (torch.from_numpy(each).view(3, 1, 1) for each in (self.mean, self.deviation))
        return (images - mean) / deviation

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(
            self.device, non_blocking=True
        )  # the CPU makes the next batch while the device works on this one

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        low = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if low else nullcontext()

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
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
        """Resume from a checkpoint; raise ValueError if it belongs to another recipe."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        if Recipe(**state["recipe"]) != self.recipe:  # a field that an old checkpoint lacks has its default
            raise ValueError(f"{path} belongs to another recipe: {state['recipe']}; pass another --out or --no-resume")
        if state["epoch"] > self.recipe.epochs:
            self._optimise_head()
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.hook.restore(state["hook"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        logger.info("resumed after epoch %d", self.epoch)
