"""Reverse-engineer a trigger for each class, and unlearn those that are unusually small.

Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao 2019, "Neural cleanse: identifying and mitigating backdoor attacks in
neural networks" (IEEE S&P), "NC".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from benchmarks.defences.protocol import Mitigated
from benchmarks.defences.training import Batch, batches, copy_of, cross_entropy, descend, device, labels_of
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect

CONSISTENCY = 1.4826
"""Factor from the median absolute deviation to the standard deviation of a normal distribution."""
EPSILON = 1e-7

PUBLISHED = Published(
    source="Wang et al. 2019, table of accuracy and attack success before and after unlearning, reversed trigger",
    setting=(
        "GTSRB, 6 convolutions, BadNets with a white 4x4 square to one of 43 classes, unlearnt with 10 % of the "
        "training images; not CIFAR-10, for which they report no figures"
    ),
    figures={
        "clean_accuracy_before": 0.9651,
        "attack_success_before": 0.9740,
        "clean_accuracy": 0.9291,
        "attack_success": 0.0014,
    },
    from_memory=True,
)


@dataclass(frozen=True)
class Trigger:
    """A pattern (3, 32, 32) in [0, 1], and a mask (32, 32) in [0, 1] of how opaque it is."""

    mask: Tensor
    pattern: Tensor

    def stamp(self, x: Tensor) -> Tensor:
        """Return (1 - m) x + m p for images (N, 3, 32, 32) in [0, 1]."""
        return (1 - self.mask) * x + self.mask * self.pattern

    @property
    def norm(self) -> float:
        """The norm |m|_1, in pixels."""
        return float(self.mask.sum())


@dataclass
class Weight:
    """λ, which grows while the trigger works and shrinks while it does not.

    Attributes:
        start: value to which λ grows from 0.
        patience: consecutive rounds until λ changes.
        factor: factor by which λ grows; it shrinks by this to the power of 1.5.
        value: current λ.
        rising: consecutive rounds in which the trigger worked.
        falling: consecutive rounds in which it did not.
    """

    start: float
    patience: int
    factor: float
    value: float = 0.0
    rising: int = 0
    falling: int = 0

    def update(self, works: bool) -> None:
        """Count a round, and change the value after `patience` rounds."""
        self.rising, self.falling = (self.rising + 1, 0) if works else (0, self.falling + 1)
        if self.rising >= self.patience:
            self.value, self.rising = self.value * self.factor or self.start, 0
        if self.falling >= self.patience:
            self.value, self.falling = self.value / self.factor**1.5, 0


@dataclass(frozen=True)
class NeuralCleanse:
    """Find the mask and pattern with the least cross-entropy + λ |m|_1 for each class, and unlearn outlying ones.

    Source: Wang et al. 2019, sections IV and VI: Adam at 0.1, batches of 32, λ depends on whether the trigger sends
    99 % of the clean images to the class. A class is flagged if its anomaly index is above 2 and its mask is smaller
    than the median. Unlearning is one epoch over D, with the trigger on a fifth of it and correct labels. The start,
    factor and patience of λ and the betas of Adam are those of the authors' release.

    Adapted to take minutes on two cores: a round has 10 batches (theirs 31), and there are at most 100 rounds (theirs
    1,000). In the search the network computes in bfloat16, with batch norm fused into the convolutions. Early stopping
    waits for λ to be above 0; theirs also waits until λ has risen and fallen. Unlearning uses the optimiser of
    `FinePruning`: their Adam at 0.001 costs these networks more accuracy and does not unlearn more. If several classes
    are flagged, each stamped image gets the trigger of one of them.

    Attributes:
        per_class: clean images per class.
        rounds: maximal number of rounds of the search per class.
        round_batches: steps per round.
        batch: images per step.
        learning_rate: learning rate of Adam in the search.
        betas: betas of Adam in the search.
        threshold: share of images that a working trigger sends to the class.
        start: start of λ (see `Weight`).
        patience: patience of λ (see `Weight`).
        factor: factor of λ (see `Weight`).
        stop: rounds without a smaller mask after which the search ends.
        limit: anomaly index above which a class is flagged.
        stamped: share of D that gets a trigger in unlearning.
        epochs: epochs of unlearning.
        unlearning_rate: learning rate of SGD in unlearning.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
    """

    per_class: int = 500
    rounds: int = 100
    round_batches: int = 10
    batch: int = 32
    learning_rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    threshold: float = 0.99
    start: float = 1e-3
    patience: int = 5
    factor: float = 2.0
    stop: int = 25
    limit: float = 2.0
    stamped: float = 0.2
    epochs: int = 1
    unlearning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Search, flag and unlearn. If no class is flagged, the network stays unchanged, and the notes say so."""
        module = copy_of(suspect).requires_grad_(False)
        classes = range(suspect.logits(clean.x[:1]).shape[1])
        searched = fuse(module)
        triggers = [self.search(searched, clean, label, np.random.default_rng([seed, label])) for label in classes]
        norms = np.array([trigger.norm for trigger in triggers])
        indices = anomaly_indices(norms)
        flagged = np.flatnonzero((indices > self.limit) & (norms < np.median(norms)))
        if len(flagged):
            generator = np.random.default_rng([seed, len(classes)])
            self.unlearn(module.requires_grad_(), clean, [triggers[label] for label in flagged], generator)
        notes = {"mask_norms": norms.tolist(), "anomaly_indices": indices.tolist(), "flagged": flagged.tolist()}
        return Mitigated(labels_of(module), notes | {"changed": bool(len(flagged))})

    def search(self, module: nn.Module, clean: CleanSet, label: int, generator: np.random.Generator) -> Trigger:
        """Return the smallest trigger for a class that worked in any round, or the last one if none did."""
        free = [_free(generator.random(shape)) for shape in ((32, 32), (3, 32, 32))]
        optimiser = torch.optim.Adam(free, lr=self.learning_rate, betas=self.betas)
        weight, best, since = Weight(self.start, self.patience, self.factor), None, 0
        stream = (batch for _ in count() for batch in batches(clean, self.batch, generator))
        for _ in range(self.rounds):
            works = self.round(module, free, islice(stream, self.round_batches), label, weight.value, optimiser)
            weight.update(works >= self.threshold)
            found = Trigger(*(_bounded(each).detach() for each in free))
            since += 1
            if works >= self.threshold and (best is None or found.norm < best.norm):
                best, since = found, 0
            if best and weight.value and since >= self.stop:
                break
        return best or found

    def round(
        self,
        module: nn.Module,
        free: list[Tensor],
        of: Iterator[Batch],
        label: int,
        weight: float,
        optimiser: torch.optim.Optimizer,
    ) -> float:
        """Take a step for each batch, and return the share of images that the trigger sent to the class."""
        hits = images = 0
        for x, _ in of:
            trigger = Trigger(*(_bounded(each) for each in free))
            with torch.autocast(x.device.type, torch.bfloat16):
                logits = module(trigger.stamp(x))
            wanted = torch.full((len(x),), label, device=device())
            loss = nn.functional.cross_entropy(logits, wanted) + weight * trigger.mask.sum()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            hits, images = hits + int((logits.argmax(dim=1) == label).sum()), images + len(x)
        return hits / images

    def unlearn(
        self, module: nn.Module, clean: CleanSet, triggers: list[Trigger], generator: np.random.Generator
    ) -> None:
        """Fine-tune on the calibration set with correct labels and triggers on a part of it."""
        optimiser = torch.optim.SGD(
            module.parameters(), lr=self.unlearning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        for _ in range(self.epochs):
            each = (self.stamp(batch, triggers, generator) for batch in batches(clean, self.batch, generator))
            descend(module, each, cross_entropy(module), optimiser)

    def stamp(self, batch: Batch, triggers: list[Trigger], generator: np.random.Generator) -> Batch:
        """Add a random trigger of those given to a share of the images."""
        x, y = batch
        drawn = generator.integers(0, len(triggers), len(x))
        drawn[generator.permutation(len(x))[round(self.stamped * len(x)) :]] = len(triggers)
        images = [
            triggers[one].stamp(image) if one < len(triggers) else image for one, image in zip(drawn, x, strict=True)
        ]
        return torch.stack(images), y


def anomaly_indices(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |norm - median| / (1.4826 MAD) for norms (K,), where MAD is the median of |norm - median| (section IV).

    If more than half of the norms are equal, MAD is 0; the index of these is then 0, and that of the others infinite.
    """
    distances: NDArray[np.float64] = np.abs(norms - np.median(norms))
    if deviation := CONSISTENCY * float(np.median(distances)):
        return distances / deviation
    return np.where(distances > 0, np.inf, 0.0)


def _free(values: NDArray[np.float64]) -> Tensor:
    """Convert values in [0, 1] to unbounded parameters; `_bounded` is the inverse."""
    scaled = torch.from_numpy((2 * values - 1) * (1 - EPSILON)).atanh().float()
    return scaled.to(device()).requires_grad_()


def _bounded(free: Tensor) -> Tensor:
    return (free.tanh() + 1) / 2
