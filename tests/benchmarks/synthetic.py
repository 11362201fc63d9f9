"""A data set of CIFAR's form that needs no download, and a network that trains on it in a second."""

import numpy as np
from torch import Tensor, nn

from benchmarks.cifar import Cifar, Images, Labels

CLASSES = 10


class Tiny(nn.Module):
    """Two convolutions and a linear layer: (N, 3, 32, 32) -> (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def images_and_labels(count: int, seed: int) -> tuple[Images, Labels]:
    """Noise around a colour of each class: (count, 32, 32, 3) uint8, and (count,) int64, as many of each class."""
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.arange(count) % CLASSES)
    colours = np.random.default_rng(0).uniform(60, 190, (CLASSES, 1, 1, 3))
    x = colours[y] + generator.normal(0, 20, (count, 32, 32, 3))
    return np.clip(x, 0, 255).astype(np.uint8), y


def synthetic_cifar(train: int = 1000, test: int = 200) -> Cifar:
    return Cifar(*images_and_labels(train, 1), *images_and_labels(test, 2))
