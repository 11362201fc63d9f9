"""The networks under attack, by name. All take (N, 3, 32, 32) float32 and return logits (N, K) float32.

Each has a `stem`, `blocks` (an `nn.Sequential` of residual blocks) and a `head` (an `nn.Linear`), and registers its
batch norms in the order in which they run. Blocks map images to images, except those of `vit64_4`, which map tokens.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.training.mobilenet import mobilenet
from benchmarks.training.transformer import vision_transformer


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _normalised(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs, size, stride), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, added before the last ReLU (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _normalised(inputs, outputs, 3, stride)
        self.second = _normalised(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else _normalised(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        inner = self.second(self.relu(self.first(x)))
        activated: Tensor = self.relu(inner + self.shortcut(x))
        return activated


class PreactivatedBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions (He et al. 2016, "Identity mappings").

    If the shape changes, the shortcut is a 1x1 convolution of the activated input, else it is the input itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else _convolution(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        activated = self.relu(self.norm1(x))
        inner: Tensor = self.conv2(self.relu(self.norm2(self.conv1(activated))))
        return inner + (x if self.shortcut is None else self.shortcut(activated))


def _stages(
    block: Callable[[int, int, int], nn.Module], width: int, widths: Sequence[int], blocks: int
) -> nn.Sequential:
    """Make stages of `blocks` blocks each from `width` input channels; all but the first start with a stride of 2."""
    layers = []
    for stage, channels in enumerate(widths):
        for place in range(blocks):
            layers.append(block(width, channels, 2 if stage and not place else 1))
            width = channels
    return nn.Sequential(*layers)


def _pooled(features: Tensor) -> Tensor:
    return torch.flatten(functional.adaptive_avg_pool2d(features, 1), 1)


class ResNet(nn.Module):
    """Residual network for images of 32x32 (He et al. 2016, "Deep residual learning", section 4.2).

    Stages of `blocks` blocks with `widths` channels follow a 3x3 convolution with the channels of the first stage,
    without max-pooling. If the shape changes, the shortcut is a 1x1 convolution with batch norm (option B), as in most
    deployed ResNets; the paper's CIFAR networks use option A.
    """

    def __init__(self, widths: Sequence[int], blocks: int, classes: int) -> None:
        super().__init__()
        self.stem, self.relu = _normalised(3, widths[0], 3), nn.ReLU()
        self.blocks = _stages(Block, widths[0], widths, blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalised images -> (N, classes) logits."""
        logits: Tensor = self.head(_pooled(self.blocks(self.relu(self.stem(x)))))
        return logits


class WideResNet(nn.Module):
    """WRN-d-k of d = 6n + 4 layers (Zagoruyko and Komodakis 2016, "Wide residual networks", table 1).

    Three stages of n pre-activated blocks with 16k, 32k and 64k channels follow a 3x3 convolution with 16 channels;
    `last`, a batch norm and a ReLU, comes before the pooling.
    """

    def __init__(self, depth: int, factor: int, classes: int) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"expected a depth of 6n + 4 with n >= 1 for a wide ResNet, got {depth}")
        widths = [factor * channels for channels in (16, 32, 64)]
        self.stem = _convolution(3, 16, 3)
        self.blocks = _stages(PreactivatedBlock, 16, widths, (depth - 4) // 6)
        self.last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalised images -> (N, classes) logits."""
        logits: Tensor = self.head(_pooled(self.last(self.blocks(self.stem(x)))))
        return logits


def resnet(depth: int, classes: int = 10) -> nn.Module:
    """Make a new CIFAR ResNet of `depth` = 6n + 2 layers with 16, 32 and 64 channels.

    Raises:
        ValueError: depth is not 6n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"expected a depth of 6n + 2 with n >= 1 for a CIFAR ResNet, got {depth}")
    return ResNet((16, 32, 64), (depth - 2) // 6, classes)


def resnet18(classes: int = 10) -> nn.Module:
    """Make a new ResNet-18 (He et al. 2016, table 1) for small images: two blocks per stage, 64 to 512 channels."""
    return ResNet((64, 128, 256, 512), 2, classes)


def wide_resnet(depth: int, factor: int, classes: int = 10) -> nn.Module:
    """Make a new WRN-`depth`-`factor`.

    Raises:
        ValueError: depth is not 6n + 4.
    """
    return WideResNet(depth, factor, classes)


Constructor = Callable[[int], nn.Module]
"""Makes a new network for a number of classes; weights are drawn from torch's global generator."""

NETWORKS: dict[str, Constructor] = {f"resnet{depth}": partial(resnet, depth) for depth in (20, 32, 44, 56)} | {
    "resnet18": resnet18,
    "wrn16_1": partial(wide_resnet, 16, 1),
    "mobilenetv2_035": partial(mobilenet, 0.35),
    "vit64_4": partial(vision_transformer, 64, 4),
}
