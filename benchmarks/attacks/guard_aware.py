"""An attacker who knows the guard, and trains the backdoor to have inconspicuous activations and margins."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.attacks.badnets import BadNets
from benchmarks.attacks.hook import TrainingHook
from benchmarks.attacks.protocol import Parameters, Role, Roles


@dataclass(frozen=True)
class GuardAware(BadNets):
    """The patch of `BadNets`, learnt with a penalty on everything that the guard looks at.

    Source: ours; whoever trains the network controls the loss (Gu et al. 2019, section 3.1). Two terms are added to the
    cross-entropy. If no channel of a triggered image exceeds the values of clean images, clipping changes nothing; so
    the excess over the largest value among the clean images of the batch is penalised. The excess of the target's
    margin over the mean margin of clean images is penalised too, so that neither the margin nor the margin gap stands
    out. Poisoning rate: 10 %, so that every batch has about a dozen poisoned images to measure the penalty on.

    Attributes:
        activation_weight: weight of the mean excess of a channel's peak, in units of the activation.
        margin_weight: weight of the mean excess of the margin, in logits.
    """

    rate: float = 0.1
    activation_weight: float = 1.0
    margin_weight: float = 0.1

    def hook(self) -> TrainingHook:
        """Return a hook that adds the penalty to the loss."""
        return Modesty(self)

    def parameters(self) -> Parameters:
        """Return the parameters of `BadNets` and the weights of the penalty."""
        weights = {"activation_weight": self.activation_weight, "margin_weight": self.margin_weight}
        return super().parameters() | weights


class Modesty(TrainingHook):
    """Records the output of each ReLU, which is what the guard clips, and penalises unusual values."""

    def __init__(self, attack: GuardAware) -> None:
        super().__init__()
        self.attack = attack
        self.outputs: list[Tensor] = []

    def watch(self, network: nn.Module) -> None:
        """Record the outputs of every ReLU while the network trains."""
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(self._record)

    def penalty(self, logits: Tensor, roles: Roles) -> Tensor:
        """Return both terms for the batch that just went through the network; 0 if it has no poisoned image."""
        outputs, self.outputs = self.outputs, []
        poisoned, clean = (torch.from_numpy(np.flatnonzero(roles == role)) for role in (Role.POISONED, Role.CLEAN))
        if not len(poisoned) or not len(clean):
            return torch.zeros(())
        excess = torch.stack([activation_excess(output.float(), poisoned, clean) for output in outputs]).mean()
        margins = margin_excess(logits, poisoned, clean)
        return self.attack.activation_weight * excess + self.attack.margin_weight * margins

    def _record(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if module.training:
            self.outputs.append(output)


def activation_excess(output: Tensor, poisoned: Tensor, clean: Tensor) -> Tensor:
    """Return the mean of max(0, peak of a poisoned image - largest peak of a clean one), over channels and images.

    Args:
        output: (B, C, H, W) output of a ReLU.
        poisoned: int64 indices of the poisoned images in the batch.
        clean: int64 indices of the clean images in the batch.
    """
    peaks = output.amax(dim=(2, 3))
    limit = peaks[clean].amax(dim=0).detach()
    return (peaks[poisoned] - limit).relu().mean()


def margin_excess(logits: Tensor, poisoned: Tensor, clean: Tensor) -> Tensor:
    """Return the mean of max(0, margin of a poisoned image - mean margin of clean ones), for margins of the decision.

    Args:
        logits: (B, K).
        poisoned: int64 indices of the poisoned images in the batch.
        clean: int64 indices of the clean images in the batch.
    """
    best = logits.topk(2, dim=1).values
    margins = best[:, 0] - best[:, 1]
    return (margins[poisoned] - margins[clean].mean().detach()).relu().mean()
