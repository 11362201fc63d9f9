"""What a network computes on its way to the logits, for detectors that look inside."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.cifar import Images, Labels
from benchmarks.suspect import Suspect, to_tensor


@dataclass(frozen=True)
class Trace:
    """The activations of a batch of images.

    Attributes:
        layers: outputs of the recorded layers in the order in which they run, (N, C, H, W) or (N, C) float32 each. A
            layer that runs twice is recorded twice.
        labels: the network's decisions, (N,) int64.
    """

    layers: list[Tensor]
    labels: Labels


class Tracer:
    """A copy of a suspect network that records what some of its layers return."""

    def __init__(self, suspect: Suspect, wanted: Callable[[nn.Module], bool]) -> None:
        """Record the layers that are `wanted`.

        Raises:
            ValueError: the network has no such layer.
        """
        self.module = suspect.module().to("cuda" if torch.cuda.is_available() else "cpu").eval()
        chosen = [layer for layer in self.module.modules() if wanted(layer)]
        if not chosen:
            raise ValueError(f"{suspect.name} has no layer that this detector reads; use a detector that reads logits")
        self._outputs: list[Tensor] = []
        for layer in chosen:
            layer.register_forward_hook(lambda _layer, _inputs, output: self._outputs.append(output))

    @torch.no_grad()
    def __call__(self, x: Images) -> Trace:
        """Run the network on images (N, 32, 32, 3) uint8. All recorded layers of all N images are kept in memory."""
        self._outputs = []
        logits = self.module(to_tensor(x).to(next(self.module.parameters()).device))
        layers, self._outputs = self._outputs, []
        return Trace(layers, logits.argmax(dim=1).cpu().numpy())


def is_relu(layer: nn.Module) -> bool:
    """Select the ReLUs."""
    return isinstance(layer, nn.ReLU)


def is_weighted_or_relu(layer: nn.Module) -> bool:
    """Select the ReLUs, the linear layers, and the convolutions larger than 1x1, which leaves out the shortcuts."""
    if isinstance(layer, nn.Conv2d):
        return max(layer.kernel_size) > 1
    return isinstance(layer, nn.ReLU | nn.Linear)
