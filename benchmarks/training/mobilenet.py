"""MobileNetV2 for images of 32x32 (Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks").

Its features are ReLU6 and depthwise convolutions, and blocks that end without an activation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 1), (6, 96, 3, 2))
"""Expansion, channels at width 1, blocks and first stride of each stage, as in their table 2.

Adapted: images of 32 instead of 224 pixels a side are halved three times instead of five times, and the stages with 160
and 320 channels, which hold most of the weights, are left out.
"""
STEM = 32
"""Channels of the first convolution at width 1."""


def _normalised(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise 3x3 one, and a 1x1 one that narrows without an activation after it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * inputs
        widen = [*_normalised(inputs, inner, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_normalised(inner, inner, 3, stride, groups=inner), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *depthwise, *_normalised(inner, outputs, 1))
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        changed: Tensor = self.layers(x)
        return x + changed if self.same else changed


class MobileNetV2(nn.Module):
    """MobileNetV2 whose channels are multiplied by `width` and rounded up to multiples of 4."""

    def __init__(self, width: float, classes: int) -> None:
        super().__init__()
        channels = _scaled(STEM, width)
        self.stem = nn.Sequential(*_normalised(3, channels, 3), nn.ReLU6())
        layers = []
        for expansion, outputs, blocks, first in STAGES:
            for place in range(blocks):
                layers.append(InvertedResidual(channels, _scaled(outputs, width), 1 if place else first, expansion))
                channels = _scaled(outputs, width)
        self.blocks = nn.Sequential(*layers)
        self.last = nn.Sequential(*_normalised(channels, 4 * channels, 1), nn.ReLU6())
        self.head = nn.Linear(4 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalised images -> (N, classes) logits."""
        features = functional.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), 1)
        logits: Tensor = self.head(torch.flatten(features, 1))
        return logits


def _scaled(channels: int, width: float) -> int:
    return 4 * -int(-channels * width // 4)


def mobilenet(width: float, classes: int = 10) -> nn.Module:
    """Make a new MobileNetV2 of this width."""
    return MobileNetV2(width, classes)
