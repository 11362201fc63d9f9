"""Helpers of the defences that train further: device, batches of the calibration set, and gradient descent.

All random draws come from a generator that is passed in; the global generators are not touched.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar import Images, Labels
from benchmarks.suspect import CleanSet, Suspect, predict, to_tensor

Augment = Callable[[Images, np.random.Generator], Images]
"""Takes images (B, 32, 32, 3) uint8 and returns as many new ones."""

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, 32, 32) float32 in [0, 1] and labels (B,) int64, both on `device()`."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""Takes a batch and returns the loss ()."""


def device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def copy_of(suspect: Suspect) -> nn.Module:
    """Return a copy of the network to train (see `Suspect.module`), on `device()` and in evaluation mode."""
    with torch.random.fork_rng(devices=[]):  # a new network draws initial weights before they are replaced
        return suspect.module().to(device())


def labels_of(module: nn.Module) -> Callable[[Images], Labels]:
    """Return a function from images (N, 32, 32, 3) uint8 to decisions (N,) int64 of a trained module."""

    def labels(x: Images) -> Labels:
        decisions: Labels = predict(module, x).argmax(axis=1)
        return decisions

    return labels


def accuracy(module: nn.Module, clean: CleanSet) -> float:
    """Return the accuracy on the clean images, in [0, 1]."""
    return float((labels_of(module)(clean.x) == clean.y).mean())


def batches(
    clean: CleanSet, size: int, generator: np.random.Generator, augment: Augment | None = None
) -> Iterator[Batch]:
    """Yield one pass over the calibration set in random order, in as few batches of at most `size` as possible.

    Batches have nearly equal sizes, because a small last batch would disturb batch norm.
    """
    order = generator.permutation(len(clean.x))
    for rows in np.array_split(order, -(-len(order) // size)):
        x = clean.x[rows]
        yield to_tensor(augment(x, generator) if augment else x).to(device()), to_labels(clean.y[rows])


def to_labels(y: Labels) -> Tensor:
    """Move labels to `device()`: (B,) int64."""
    return torch.from_numpy(y).to(device())


def descend(module: nn.Module, of: Iterable[Batch], objective: Objective, optimiser: torch.optim.Optimizer) -> None:
    """Take a step for each batch in training mode, and leave the module in evaluation mode."""
    module.train()
    for x, y in of:
        optimiser.zero_grad()
        torch.autograd.backward(objective(x, y))
        optimiser.step()
    module.eval()


def cross_entropy(module: nn.Module) -> Objective:
    """Return the cross-entropy loss of a module."""
    return lambda x, y: nn.functional.cross_entropy(module(x), y)
