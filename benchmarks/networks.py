"""The networks that are attacked, by name. All take (N, 3, 32, 32) float32 and return logits (N, K) float32."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, added before the last ReLU (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        inner = self.second(functional.relu(self.first(x)))
        return functional.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR ResNet of 6n + 2 layers (He et al. 2016, "Deep residual learning", section 4.2).

    Three stages of n blocks with 16, 32 and 64 channels. Where the shape changes, the shortcut is a 1x1 convolution
    with batch normalisation (option B), as in most deployed ResNets; the paper's CIFAR networks use option A.
    """

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers, n >= 1; {depth} is not of that form")
        self.stem = _convolution(3, 16, 3)
        blocks, width = [], 16
        for stage, channels in enumerate((16, 32, 64)):
            for place in range((depth - 2) // 6):
                blocks.append(Block(width, channels, stride=2 if stage and not place else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalised images -> (N, classes) logits."""
        features = self.blocks(functional.relu(self.stem(x)))
        logits: Tensor = self.head(torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1))
        return logits


def resnet(depth: int, classes: int = 10) -> nn.Module:
    """A freshly initialised CIFAR ResNet of `depth` = 6n + 2 layers.

    Raises:
        ValueError: depth is not 6n + 2.
    """
    return ResNet(depth, classes)


Constructor = Callable[[int], nn.Module]
"""Takes the number of classes and returns a freshly initialised network; draws from torch's global generator."""

NETWORKS: dict[str, Constructor] = {f"resnet{depth}": partial(resnet, depth) for depth in (20, 32, 44, 56)}
