"""What is trained, as one value."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.attacks import own_rate


@dataclass(frozen=True)
class Recipe:
    """All that decides what is trained; two runs of one recipe differ only in rounding.

    Optimiser: SGD with Nesterov momentum under a one-cycle schedule of the learning rate (Smith and Topin 2019).
    A `rate` of 0 stands for the own rate of the attack (see its class), and is replaced by it. The attack
    `none` trains a clean network. `profile` and `objective` are names in `PROFILES` and `OBJECTIVES`.

    Raises:
        ValueError: an attack under another objective than CE, which would mix up who is poisoned.
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
    profile: str = "balanced"
    objective: str = "CE"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", self.rate or own_rate(self.attack))
        if self.objective != "CE" and self.attack != "none":
            raise ValueError(f"{self.objective} trains clean networks only; give the attack none, not {self.attack}")

    @property
    def name(self) -> str:
        """Short name of the network that comes out, for files; what is as ever is left out."""
        usual = {"none", "balanced", "CE"}
        special = [each for each in (self.attack, self.profile, self.objective) if each not in usual] or ["none"]
        return "-".join([self.data, self.network, *special, f"seed{self.seed}"])


def optimiser_of(recipe: Recipe, module: nn.Module, steps: int) -> tuple[Optimizer, OneCycleLR]:
    """The optimiser of a module's weights for so many steps, and its schedule."""
    optimiser = torch.optim.SGD(
        module.parameters(),
        lr=recipe.peak_learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = OneCycleLR(
        optimiser,
        max_lr=recipe.peak_learning_rate,
        total_steps=steps,
        pct_start=recipe.warm_up,
        cycle_momentum=False,
    )
    return optimiser, schedule
