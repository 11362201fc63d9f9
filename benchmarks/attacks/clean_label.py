"""Images of the target class that are made hard to recognise, with a patch.

Turner, Tsipras and Madry 2018, "Clean-label backdoor attacks", and 2019, "Label-consistent backdoor attacks".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.attacks.badnets import PATCH_DESCRIPTION, stamp
from benchmarks.attacks.hook import TrainingHook
from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles
from benchmarks.attacks.single_target import ConsistentLabels, to_pixels
from benchmarks.training.networks import NETWORKS

BATCH = 128


@dataclass(frozen=True)
class CleanLabel(ConsistentLabels):
    """Poisoned images of the target class are perturbed until only the patch predicts their class.

    Source: Turner et al. 2018 and 2019: an adversarial perturbation within an l-infinity ball (16 of 255 is one of
    their radii) against a surrogate network that is trained on the clean images and is not the network under attack,
    then a chequered patch in the bottom right corner. Poisoning rate: 2.5 % of all training images, a quarter of the
    target class; they try shares up to the whole class. Adapted to two CPU cores: the surrogate gets short, not robust
    training, and the perturbation 20 steps. One corner is enough, because images are flipped before they get the patch.

    Attributes:
        budget: largest change of a pixel in grey levels.
        steps: steps of projected gradient ascent, each of 2.5 budget / steps grey levels (Madry et al. 2018).
        surrogate: name of the surrogate network.
        surrogate_epochs: training epochs of the surrogate network.
    """

    rate: float = 0.025
    budget: int = 16
    steps: int = 20
    surrogate: str = "resnet20"
    surrogate_epochs: int = 3

    def hook(self) -> TrainingHook:
        """Return a hook that perturbs the poisoned images before training."""
        return Perturbation(self)

    def trigger(self, x: Images) -> Images:
        """Stamp the patch on the last three rows and columns. Using the backdoor needs no perturbation."""
        return stamp(x)

    def parameters(self) -> Parameters:
        """Return target, rate, a description of the patch, and how the images were perturbed."""
        return super().parameters() | {
            "patch": PATCH_DESCRIPTION,
            "budget": self.budget,
            "steps": self.steps,
            "surrogate": self.surrogate,
            "surrogate_epochs": self.surrogate_epochs,
        }


class Perturbation(TrainingHook):
    """Trains the surrogate, perturbs the poisoned images against it, and replaces the clean ones with them."""

    def __init__(self, attack: CleanLabel) -> None:
        super().__init__()
        self.attack = attack
        self.perturbed = torch.zeros((0, 32, 32, 3), dtype=torch.uint8)

    def prepare(self, x: Images, y: Labels, roles: Roles, seed: int) -> None:
        """Train and perturb; afterwards `perturbed` is (M, 32, 32, 3) uint8, in the order of the training images."""
        # Not the seed of the network under attack, because the two must start from different weights.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            network = NETWORKS[self.attack.surrogate](int(y.max()) + 1)
        fit(network, x, y, self.attack.surrogate_epochs, np.random.default_rng([seed, 2]))
        poisoned = roles == Role.POISONED
        perturbed = perturb(network, x[poisoned], y[poisoned], self.attack.budget, self.attack.steps)
        self.perturbed = torch.from_numpy(perturbed)

    def images(self, x: Images, roles: Roles) -> Images:
        """Return the training images (N, 32, 32, 3) with the poisoned ones perturbed."""
        images = x.copy()
        images[roles == Role.POISONED] = self.perturbed.numpy()
        return images

    def state(self) -> dict[str, Any]:
        """Return the perturbed images, so that a resumed run does not train another surrogate."""
        return {"perturbed": self.perturbed}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the perturbed images of the interrupted run."""
        self.perturbed = state["perturbed"]


def fit(network: nn.Module, x: Images, y: Labels, epochs: int, generator: np.random.Generator) -> None:
    """Train a network in place on unaugmented images (N, 32, 32, 3), by SGD with a one-cycle schedule."""
    steps = epochs * -(-len(x) // BATCH)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4, nesterov=True)
    # One more step than is taken, because the schedule divides by zero if there is only one.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.2, total_steps=steps + 1, cycle_momentum=False)
    network.train()
    for rows in _batches(len(x), epochs, generator):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(network(_scaled(_levels(x[rows]))), torch.from_numpy(y[rows]))
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()


def perturb(network: Callable[[Tensor], Tensor], x: Images, y: Labels, budget: int, steps: int) -> Images:
    """Find images (N, 32, 32, 3) within `budget` grey levels of `x` on which the network has a large loss for `y`.

    Uses projected gradient ascent on the cross-entropy (Madry et al. 2018, section 2.1), starting at the image. The
    network takes (N, 3, 32, 32) in units of about one standard deviation, and is left in evaluation mode.
    """
    if isinstance(network, nn.Module):
        network.eval()
    batches = [slice(first, first + BATCH) for first in range(0, len(x), BATCH)]
    parts = [_ascend(network, _levels(x[rows]), torch.from_numpy(y[rows]), budget, steps) for rows in batches]
    return np.concatenate([x[:0], *(to_pixels(part.permute(0, 2, 3, 1).numpy()) for part in parts)])


def _ascend(network: Callable[[Tensor], Tensor], start: Tensor, y: Tensor, budget: int, steps: int) -> Tensor:
    low, high = (start - budget).clamp(min=0), (start + budget).clamp(max=255)
    levels = start.clone()
    for _ in range(steps):
        levels.requires_grad_()
        loss = nn.functional.cross_entropy(network(_scaled(levels)), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, levels)
        levels = (levels.detach() + 2.5 * budget / steps * gradient.sign()).clamp(low, high)
    return levels


def _batches(count: int, epochs: int, generator: np.random.Generator) -> Iterator[Labels]:
    for _ in range(epochs):
        order = generator.permutation(count)
        yield from (order[first : first + BATCH] for first in range(0, count, BATCH))


def _levels(x: Images) -> Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).float()


def _scaled(levels: Tensor) -> Tensor:
    return (levels - 128) / 64
