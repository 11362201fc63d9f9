"""An attacker who also knows that the guard compares activations with those of clean inputs of the same decision."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.attacks.guard_aware import GuardAware, Modesty
from benchmarks.attacks.hook import TrainingHook
from benchmarks.attacks.protocol import Parameters, Role, Roles

MEMORY = 0.98
"""Share of a running mean that is kept in each step; a batch has only a dozen images of the target class."""
LARGEST = 100.0
"""Largest squared distance of a channel, in variances, that adds to the penalty."""


@dataclass(frozen=True)
class DistanceAware(GuardAware):
    """The patch of `BadNets`, learnt with the penalties of `GuardAware` and one on the distance of activations.

    Source: ours. After every ReLU, the mean of each channel over a triggered image is drawn towards its mean over clean
    images of the target class, in units of its standard deviation over those images. This is the distance that the
    guard measures, with a diagonal covariance.

    Attributes:
        distance_weight: weight of the mean squared distance, in variances.
    """

    distance_weight: float = 0.1

    def hook(self) -> TrainingHook:
        """Return a hook that adds the penalties to the loss."""
        return Nearness(self)

    def parameters(self) -> Parameters:
        """Return the parameters of `GuardAware` and the weight of the distance."""
        return super().parameters() | {"distance_weight": self.distance_weight}


class Nearness(Modesty):
    """Adds the distance from the target class, whose moments are running means over the clean images of batches."""

    def __init__(self, attack: DistanceAware) -> None:
        super().__init__(attack)
        self.distance_weight = attack.distance_weight
        self.moments: list[tuple[Tensor, Tensor]] = []

    def penalty(self, logits: Tensor, roles: Roles) -> Tensor:
        """Return the terms of `Modesty` plus the distance; 0 if the batch has no poisoned image."""
        means = [output.float().mean(dim=(2, 3)) for output in self.outputs]
        modesty = super().penalty(logits, roles)
        poisoned, clean = (torch.from_numpy(np.flatnonzero(roles == role)) for role in (Role.POISONED, Role.CLEAN))
        own = clean[logits[clean].argmax(dim=1) == self.attack.target]
        if len(own):
            self._remember([mean[own].detach() for mean in means])
        if not len(poisoned) or not self.moments:
            return modesty
        pairs = zip(means, self.moments, strict=True)
        distances = [squared_distance(mean[poisoned], first, second) for mean, (first, second) in pairs]
        return modesty + self.distance_weight * torch.stack(distances).mean()

    def state(self) -> dict[str, Any]:
        """Return the running means."""
        return {"moments": [list(pair) for pair in self.moments]}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.moments = [(first, second) for first, second in state["moments"]]

    def _remember(self, means: list[Tensor]) -> None:
        """Update the running means of the channel means and of their squares."""
        fresh = [(mean.mean(dim=0), (mean**2).mean(dim=0)) for mean in means]
        if not self.moments:
            self.moments = fresh
            return
        self.moments = [
            (MEMORY * old[0] + (1 - MEMORY) * new[0], MEMORY * old[1] + (1 - MEMORY) * new[1])
            for old, new in zip(self.moments, fresh, strict=True)
        ]


def squared_distance(means: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared distance from the target class, in variances, over channels and images.

    Args:
        means: (B, C) channel means of poisoned images.
        first: (C,) mean over clean images of the target class.
        second: (C,) mean of the square over these images.
    """
    variance = (second - first**2).clamp(min=0)
    scale = variance + 1e-3 * variance.mean() + 1e-8
    return ((means - first) ** 2 / scale).clamp(max=LARGEST).mean()
