"""The networks: a perceptron for features and a convolutional network for series. Both return logits (N, K) float32."""

from collections.abc import Callable

from torch import Tensor, nn


class Standardise(nn.Module):
    """Subtract the mean and divide by the deviation of the training inputs, which are part of the network."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        others = [axis for axis in range(x.ndim) if axis != 1]
        self.register_buffer("mean", x.mean(dim=others, keepdim=True))
        self.register_buffer("deviation", x.std(dim=others, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return standardised inputs of the same shape, (N, C) or (N, C, T), by channel."""
        return (x - self.mean) / self.deviation


def perceptron(x: Tensor, classes: int) -> nn.Module:
    """Make a new network (N, F) -> (N, classes) with two hidden layers of 64, for training inputs x."""
    return nn.Sequential(
        Standardise(x),
        nn.Linear(x.shape[1], 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def series_network(x: Tensor, classes: int) -> nn.Module:
    """Make a new network (N, C, T) -> (N, classes) of three convolutions and the mean over time, for inputs x.

    After Wang, Yan and Oates 2017, "Time series classification from scratch" (FCN), with fewer channels and strides.
    """
    return nn.Sequential(
        Standardise(x),
        *_convolution(x.shape[1], 16, 7),
        *_convolution(16, 32, 5, stride=2),
        *_convolution(32, 32, 3, stride=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv1d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]


ARRAY_NETWORKS: dict[str, Callable[[Tensor, int], nn.Module]] = {
    "perceptron": perceptron,
    "series_network": series_network,
}
