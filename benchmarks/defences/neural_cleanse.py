"""Reverse-engineering of a trigger for each class, and unlearning of those that are unusually small.

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
"""Makes the median absolute deviation of normal draws their standard deviation."""
EPSILON = 1e-7

PUBLISHED = Published(
    source="Wang et al. 2019, table of accuracy and attack success before and after unlearning, reversed trigger",
    setting=(
        "GTSRB, 6 convolutions, BadNets with a white 4x4 square to one of 43 classes, unlearnt with 10 % of the "
        "training images; not CIFAR-10, on which they report none"
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
    """A pattern (3, 32, 32) in [0, 1] and how much of it is seen, a mask (32, 32) in [0, 1]."""

    mask: Tensor
    pattern: Tensor

    def stamp(self, x: Tensor) -> Tensor:
        """(1 - m) x + m p for images (N, 3, 32, 32) in [0, 1]."""
        return (1 - self.mask) * x + self.mask * self.pattern

    @property
    def norm(self) -> float:
        """|m|_1, pixels."""
        return float(self.mask.sum())


@dataclass
class Weight:
    """λ, which grows while the trigger works, and shrinks while it does not.

    Attributes:
        start: what 0 grows to. patience: rounds in a row until it changes.
        factor: that it grows by; it shrinks by this to the power of 1.5.
    """

    start: float
    patience: int
    factor: float
    value: float = 0.0
    rising: int = 0
    falling: int = 0

    def update(self, works: bool) -> None:
        """Count one round, and change the value where the patience is over."""
        self.rising, self.falling = (self.rising + 1, 0) if works else (0, self.falling + 1)
        if self.rising >= self.patience:
            self.value, self.rising = self.value * self.factor or self.start, 0
        if self.falling >= self.patience:
            self.value, self.falling = self.value / self.factor**1.5, 0


@dataclass(frozen=True)
class NeuralCleanse:
    """For each class the mask and pattern of least cross-entropy + λ |m|_1; classes with outlying masks are unlearnt.

    Source: Wang et al. 2019, sections IV and VI: Adam at 0.1, batches of 32, λ follows whether the trigger sends 99 %
    of the clean images to the class; a class is flagged where its anomaly index is above 2 and its mask smaller than
    the median; one epoch over D, a fifth of it stamped and with correct labels. λ's start, factor and patience and
    Adam's betas are those of the authors' release.

    Adapted, so that two cores do it in minutes: a round has 10 batches, where theirs has 31, and there are 100 rounds
    at most, where they allow 1,000. The network computes in bfloat16 in the search, with batch normalisation
    folded into the convolutions. The early stop waits for λ to be above 0, where theirs waits until it has risen and
    fallen as well. The optimiser of unlearning is ours, that of `FinePruning`: the Adam at 0.001 that they train with
    costs these networks more accuracy and unlearns no more. Where more classes than one are flagged, each stamped
    image gets the trigger of one of them.

    Attributes:
        rounds, round_batches, batch: steps of the search for each class, and images a step.
        learning_rate, betas: Adam's in the search. threshold: share of images at which a trigger works.
        start, patience, factor: of λ (see `Weight`). stop: rounds without a smaller mask after which the search ends.
        limit: of the anomaly index. stamped: share of D.
        epochs, unlearning_rate, momentum, weight_decay: of unlearning by SGD.
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
        """Search, flag and unlearn; the network is left as it is where no class is flagged, and the notes say so."""
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
        """The smallest trigger for a class that worked in some round; the last one where none did."""
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
        """One step for each batch; the share of images that the trigger sent to the class on the way."""
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
        """Fine-tune on D, a part of it stamped, all of it with its own labels."""
        optimiser = torch.optim.SGD(
            module.parameters(), lr=self.unlearning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        for _ in range(self.epochs):
            each = (self.stamp(batch, triggers, generator) for batch in batches(clean, self.batch, generator))
            descend(module, each, cross_entropy(module), optimiser)

    def stamp(self, batch: Batch, triggers: list[Trigger], generator: np.random.Generator) -> Batch:
        """The batch with a trigger drawn from those given on each image of a share."""
        x, y = batch
        drawn = generator.integers(0, len(triggers), len(x))
        drawn[generator.permutation(len(x))[round(self.stamped * len(x)) :]] = len(triggers)
        images = [
            triggers[one].stamp(image) if one < len(triggers) else image for one, image in zip(drawn, x, strict=True)
        ]
        return torch.stack(images), y


def anomaly_indices(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """|norm - median| / (1.4826 MAD), MAD the median of |norm - median|: (K,) -> (K,) (their section IV).

    Where more than half of the norms are equal, MAD is 0; theirs is 0 then, and that of the others infinite.
    """
    distances: NDArray[np.float64] = np.abs(norms - np.median(norms))
    if deviation := CONSISTENCY * float(np.median(distances)):
        return distances / deviation
    return np.where(distances > 0, np.inf, 0.0)


def _free(values: NDArray[np.float64]) -> Tensor:
    """Values in [0, 1] -> what may take any value, and which `_bounded` takes back to them."""
    scaled = torch.from_numpy((2 * values - 1) * (1 - EPSILON)).atanh().float()
    return scaled.to(device()).requires_grad_()


def _bounded(free: Tensor) -> Tensor:
    return (free.tanh() + 1) / 2
