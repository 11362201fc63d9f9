"""The recipe of a network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.attacks import own_rate


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a network; two runs of a recipe differ only in rounding.

    Optimiser: SGD with Nesterov momentum, or AdamW (Loshchilov and Hutter 2019) with β₁ = `momentum`, under a one-cycle
    schedule of the learning rate (Smith and Topin 2019).
    A `rate` of 0 is replaced by the attack's default rate (see its class). The attack `none` trains a clean network.
    `profile` and `objective` are names in `PROFILES` and `OBJECTIVES`.

    Raises:
        ValueError: an attack with an objective other than CE, which would confuse which images are poisoned, or an
            unknown optimiser.
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
    optimiser: str = "SGD"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", self.rate or own_rate(self.attack))
        if self.objective != "CE" and self.attack != "none":
            raise ValueError(f"{self.objective} only trains clean networks; use the attack none, not {self.attack}")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"expected one of the optimisers {', '.join(OPTIMISERS)}, got {self.optimiser}")

    @property
    def name(self) -> str:
        """Short name of the network for files, without the parts that have their usual values."""
        usual = {"none", "balanced", "CE"}
        special = [each for each in (self.attack, self.profile, self.objective) if each not in usual] or ["none"]
        special += [f"target{self.target}"] if self.target else []
        return "-".join([self.data, self.network, *special, f"seed{self.seed}"])


def optimiser_of(recipe: Recipe, module: nn.Module, steps: int) -> tuple[Optimizer, OneCycleLR]:
    """Return the optimiser of a module's weights, and its schedule for the given number of steps."""
    optimiser = OPTIMISERS[recipe.optimiser](recipe, module)
    schedule = OneCycleLR(
        optimiser,
        max_lr=recipe.peak_learning_rate,
        total_steps=steps,
        pct_start=recipe.warm_up,
        cycle_momentum=False,
    )
    return optimiser, schedule


def _sgd(recipe: Recipe, module: nn.Module) -> Optimizer:
    return torch.optim.SGD(
        module.parameters(),
        lr=recipe.peak_learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )


def _adamw(recipe: Recipe, module: nn.Module) -> Optimizer:
    return torch.optim.AdamW(
        module.parameters(),
        lr=recipe.peak_learning_rate,
        betas=(recipe.momentum, 0.999),
        weight_decay=recipe.weight_decay,
    )


OPTIMISERS: dict[str, Callable[[Recipe, nn.Module], Optimizer]] = {"SGD": _sgd, "AdamW": _adamw}
