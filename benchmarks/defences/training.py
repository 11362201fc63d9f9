"""What the defences that train on have in common: where they run, batches of D, and steps of gradient descent.

Every draw is from a generator that is passed in; the global ones are left as they were.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar import Images, Labels
from benchmarks.suspect import CleanSet, Suspect, predict, to_tensor

Augment = Callable[[Images, np.random.Generator], Images]
"""Takes images (B, 32, 32, 3) uint8 and gives as many new ones."""

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, 32, 32) float32 in [0, 1] and labels (B,) int64, both on `device()`."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""Takes a batch, gives the loss ()."""


def device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def copy_of(suspect: Suspect) -> nn.Module:
    """The suspect as a module of its own to train on (see `Suspect.module`), on `device()`, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):  # a new network draws its initial weights before they are replaced
        return suspect.module().to(device())


def labels_of(module: nn.Module) -> Callable[[Images], Labels]:
    """Decisions (N,) int64 of a trained module for images (N, 32, 32, 3) uint8."""

    def labels(x: Images) -> Labels:
        decisions: Labels = predict(module, x).argmax(axis=1)
        return decisions

    return labels


def accuracy(module: nn.Module, clean: CleanSet) -> float:
    """Share of the clean images that get their label, in [0, 1]."""
    return float((labels_of(module)(clean.x) == clean.y).mean())


def batches(
    clean: CleanSet, size: int, generator: np.random.Generator, augment: Augment | None = None
) -> Iterator[Batch]:
    """One pass over D in random order, in as few batches of at most `size` as it takes, all nearly equal.

    Nearly equal, since batch normalisation is at the mercy of a last batch of a few images.
    """
    order = generator.permutation(len(clean.x))
    for rows in np.array_split(order, -(-len(order) // size)):
        x = clean.x[rows]
        yield to_tensor(augment(x, generator) if augment else x).to(device()), to_labels(clean.y[rows])


def to_labels(y: Labels) -> Tensor:
    """(B,) int64 on `device()`."""
    return torch.from_numpy(y).to(device())


def descend(module: nn.Module, of: Iterable[Batch], objective: Objective, optimiser: torch.optim.Optimizer) -> None:
    """One step for each batch, in training mode; the module is left in evaluation mode."""
    module.train()
    for x, y in of:
        optimiser.zero_grad()
        torch.autograd.backward(objective(x, y))
        optimiser.step()
    module.eval()


def cross_entropy(module: nn.Module) -> Objective:
    """The usual loss of a classifier."""
    return lambda x, y: nn.functional.cross_entropy(module(x), y)
