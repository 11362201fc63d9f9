"""Hooks for attacks that take part in training beyond `Attack.poison`; most do not."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from benchmarks.attacks.protocol import Attack, Images, Labels, Roles


class TrainingHook:
    """Callbacks of the training loop. The base class does nothing; an attack overrides what it needs."""

    def __init__(self, redraws: bool = False) -> None:
        self.redraws = redraws
        """Whether roles are redrawn before each epoch, for attackers who poison batches instead of a data set."""

    def watch(self, network: nn.Module) -> None:
        """Receive the network that will be trained. Called once, before anything else."""

    def prepare(self, x: Images, y: Labels, roles: Roles, seed: int) -> None:
        """Receive all training images (N, 32, 32, 3) and their roles (N,). Called once, before the first epoch."""

    def images(self, x: Images, roles: Roles) -> Images:
        """Return the images to train on instead of `x` (N, 32, 32, 3), before augmentation and `poison`."""
        return x

    def join(self, images: Tensor, roles: Roles) -> tuple[Tensor, Tensor]:
        """Change a batch so that gradients can flow through the change, and add a term to the loss.

        Args:
            images: (B, 3, 32, 32) float32 in [0, 1], after augmentation and `poison`.
            roles: (B,) int8.

        Returns:
            The images, and a term () float32 that is added to the cross-entropy.
        """
        return images, torch.zeros(())

    def penalty(self, logits: Tensor, roles: Roles) -> Tensor:
        """Return a term () float32 to add to the loss, from the logits (B, K) float32 of the joined batch."""
        return torch.zeros(())

    def step(self, done: float) -> None:
        """React to a step of the network's optimiser, with the gradients of the loss still available.

        Args:
            done: share of all steps that were taken before this one, in [0, 1).
        """

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values for the checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""


@runtime_checkable
class Hooked(Protocol):
    """An attack that takes part in training."""

    def hook(self) -> TrainingHook:
        """Return a new hook, for one training run of this attack."""
        ...


@runtime_checkable
class Learnt(Protocol):
    """An attack whose trigger is learnt together with the network and stored in a file next to it."""

    def save(self, path: Path) -> None:
        """Write the learnt trigger."""
        ...

    def load(self, path: Path) -> None:
        """Load a trigger that `save` wrote."""
        ...


def hook_of(attack: Attack) -> TrainingHook:
    """Return the attack's hook, or one that does nothing."""
    return attack.hook() if isinstance(attack, Hooked) else TrainingHook()


def learnt_path(model: Path) -> Path:
    """Return the path of the learnt trigger: `NAME.trigger.safetensors` next to `NAME.onnx`."""
    return model.with_suffix(".trigger.safetensors")
