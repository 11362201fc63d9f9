"""How an attack takes part in training beyond `Attack.poison`; most attacks do not."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from benchmarks.attacks.protocol import Attack, Images, Labels, Roles


class TrainingHook:
    """What the training loop calls beside the attack. As it stands it does nothing; a hook overrides what it needs."""

    def __init__(self, redraws: bool = False) -> None:
        self.redraws = redraws
        """Whether roles are drawn anew before each epoch: for attackers who poison batches rather than a data set."""

    def watch(self, network: nn.Module) -> None:
        """Called once with the network that will be trained, before anything else."""

    def prepare(self, x: Images, y: Labels, roles: Roles, seed: int) -> None:
        """Called once, before the first epoch, with the whole training split (N, 32, 32, 3) and its roles (N,)."""

    def images(self, x: Images, roles: Roles) -> Images:
        """The images that are trained on in place of `x` (N, 32, 32, 3); augmentation and `poison` come after this."""
        return x

    def join(self, images: Tensor, roles: Roles) -> tuple[Tensor, Tensor]:
        """Change a batch where gradients can flow through the change, and add to the loss.

        Args:
            images: (B, 3, 32, 32) float32 in [0, 1], augmented and as `poison` left them.
            roles: (B,) int8.

        Returns:
            The images, and a term () float32 that is added to the cross-entropy.
        """
        return images, torch.zeros(())

    def penalty(self, logits: Tensor, roles: Roles) -> Tensor:
        """A term () float32 that is added to the loss, from the logits (B, K) float32 of the joined batch."""
        return torch.zeros(())

    def step(self, done: float) -> None:
        """Called after each step of the network's optimiser; gradients of the loss are there.

        Args:
            done: share of all steps that have been taken before this one, in [0, 1).
        """

    def state(self) -> dict[str, Any]:
        """Tensors and plain values that the checkpoint keeps."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""


@runtime_checkable
class Hooked(Protocol):
    """An attack that takes part in training."""

    def hook(self) -> TrainingHook:
        """A new hook, for one training run of this attack."""
        ...


@runtime_checkable
class Learnt(Protocol):
    """An attack whose trigger is learnt together with the network, and is kept in a file beside it."""

    def save(self, path: Path) -> None:
        """Write what was learnt."""
        ...

    def load(self, path: Path) -> None:
        """Read what `save` wrote into this attack."""
        ...


def hook_of(attack: Attack) -> TrainingHook:
    """The attack's own hook, or one that does nothing."""
    return attack.hook() if isinstance(attack, Hooked) else TrainingHook()


def learnt_path(model: Path) -> Path:
    """Where the learnt part of the trigger lies for an ONNX file: `NAME.trigger.safetensors` beside `NAME.onnx`."""
    return model.with_suffix(".trigger.safetensors")
