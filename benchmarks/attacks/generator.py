"""Networks that generate a trigger for each image (Nguyen and Tran 2020, "Input-aware dynamic backdoor attack")."""

import torch
from torch import Tensor, nn

DEPTH = 3
"""Number of times that the image is halved."""


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, momentum=0.05)]


class Generator(nn.Module):
    """Convolutional encoder and decoder with outputs in (0, 1).

    Source: Nguyen and Tran 2020: three halvings and three doublings, two 3x3 convolutions with batch
    normalisation between them, and a tanh at the end.

    Args:
        outputs: number of output channels, 3 for a pattern and 1 for a mask.
        width: channels of the first convolution, doubled at each halving but the last.
    """

    def __init__(self, outputs: int, width: int) -> None:
        widths = [width * 2**level for level in range(DEPTH)]
        layers: list[nn.Module] = []
        inputs = 3
        for channels in widths:
            layers += [*_convolution(inputs, channels), nn.ReLU(), *_convolution(channels, channels), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            inputs = channels
        layers += [*_convolution(inputs, inputs), nn.ReLU()]
        for channels in [*reversed(widths[:-1]), outputs]:
            layers += [nn.Upsample(scale_factor=2, mode="bilinear")]
            layers += [*_convolution(inputs, inputs), nn.ReLU(), *_convolution(inputs, channels), nn.ReLU()]
            inputs = channels
        super().__init__()
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32), in units of about one standard deviation, to (N, outputs, 32, 32) in (0, 1)."""
        return torch.tanh(self.layers(x)) / 2 + 0.5


def nearly_binary(mask: Tensor) -> Tensor:
    """Push values in (0, 1) towards 0 and 1, with a gradient."""
    return torch.tanh(20 * mask - 10) / 2 + 0.5
