"""Prune the channels that are dormant on clean images, then fine-tune.

Liu, Dolan-Gavitt and Garg 2018, "Fine-pruning: defending against backdooring attacks on deep neural networks" (RAID).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar import Images
from benchmarks.defences.protocol import Mitigated
from benchmarks.defences.training import batches, copy_of, cross_entropy, descend, device, labels_of, to_labels
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect, to_tensor
from benchmarks.training.augment import crop_and_flip

BATCH = 500

PUBLISHED = Published(
    source="Liu et al. 2018, table 1, face recognition, baseline attack",
    setting=(
        "YouTube Faces, DeepID (3 convolutions), sunglasses to one target; not CIFAR-10, for which they report no "
        "figures"
    ),
    figures={
        "clean_accuracy_before": 0.978,
        "attack_success_before": 1.0,
        "clean_accuracy": 0.978,
        "attack_success": 0.0,
    },
    from_memory=True,
)


@dataclass(frozen=True)
class FinePruning:
    """Prune channels of the last feature map, least active first, as long as accuracy allows; then fine-tune.

    Source: Liu et al. 2018, sections 3.1 and 3.3: activations are averaged over clean images, and pruning stops before
    the accuracy on validation images is more than 4 points below that of the original network. Adapted: in a residual
    network the last convolution is added to its shortcut, so we prune the channels of the sum after its ReLU, which is
    what the classifier sees. A fifth of the calibration set is held out to stop the pruning, and is used again in
    fine-tuning. They do not specify optimiser and epochs of fine-tuning: the settings are ours.

    Attributes:
        per_class: clean images per class.
        tolerance: largest loss of accuracy on the held-out images by pruning.
        held_out: share of the calibration set that is held out.
        epochs: epochs of fine-tuning, with random crops and flips.
        batch: images per step.
        learning_rate: learning rate of SGD.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
    """

    per_class: int = 500
    tolerance: float = 0.04
    held_out: float = 0.2
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Prune and fine-tune; note the number of channels, and the accuracy on the held-out part around pruning."""
        generator = np.random.default_rng(seed)
        module = copy_of(suspect)
        last = LastChannels(module)
        used, held = split(clean, self.held_out, generator)
        activations, features, y = last.of(used.x).mean(dim=0), last.of(held.x), to_labels(held.y)
        before = last.accuracy(features, y)
        last.prune(activations, features, y, before - self.tolerance)
        self.train(module, clean, generator)
        return Mitigated(
            labels_of(module),
            {
                "channels": len(last.kept),
                "pruned": int((last.kept == 0).sum()),
                "held_out_accuracy_before": before,
                "held_out_accuracy_pruned": last.accuracy(features, y),
            },
        )

    def train(self, module: nn.Module, clean: CleanSet, generator: np.random.Generator) -> None:
        """Fine-tune a module in place, and leave it in evaluation mode."""
        optimiser = torch.optim.SGD(
            module.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        for _ in range(self.epochs):
            each = batches(clean, self.batch, generator, crop_and_flip)
            descend(module, each, cross_entropy(module), optimiser)


class LastChannels:
    """Channels of the last feature map as the linear layer receives them: means over the map.

    A pruned channel stays 0, in training too.

    Attributes:
        kept: (C,) float32 on `device()`, 1 or 0.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.linear = [each for each in module.get_submodule("1.head").modules() if isinstance(each, nn.Linear)][-1]
        self.kept = torch.ones(self.linear.in_features, device=device())
        self.linear.register_forward_pre_hook(lambda _, inputs: inputs[0] * self.kept)

    @torch.no_grad()
    def of(self, x: Images) -> Tensor:
        """Return the input of the linear layer (N, C) float32 for images (N, 32, 32, 3) uint8, before pruning."""
        seen: list[Tensor] = []
        handle = self.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]), prepend=True)
        for part in to_tensor(x).split(BATCH):
            self.module(part.to(device()))
        handle.remove()
        return torch.cat(seen)

    @torch.no_grad()
    def accuracy(self, features: Tensor, y: Tensor) -> float:
        """Return the accuracy on features (N, C) of `of` with labels (N,), using only the channels that are kept."""
        return float((self.linear(features).argmax(dim=1) == y).float().mean())

    def prune(self, activations: Tensor, features: Tensor, y: Tensor, least: float) -> None:
        """Prune channels in increasing order of activation, until the next one would take the accuracy below `least`.

        Args:
            activations: (C,) mean activation of each channel over clean images.
            features: (N, C) features of the images that accuracy is measured on.
            y: (N,) labels of these images.
            least: lowest accuracy allowed.
        """
        for channel in activations.argsort(stable=True):
            self.kept[channel] = 0
            if self.accuracy(features, y) < least:
                self.kept[channel] = 1
                return


def split(clean: CleanSet, share: float, generator: np.random.Generator) -> tuple[CleanSet, CleanSet]:
    """Hold out the same share of each class, at least one image. Return the rest, and the held-out images."""
    members = [generator.permutation(np.flatnonzero(clean.y == label)) for label in np.unique(clean.y)]
    held = np.sort(np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in members]))
    rest = np.setdiff1d(np.arange(len(clean.y)), held)
    return CleanSet(clean.x[rest], clean.y[rest]), CleanSet(clean.x[held], clean.y[held])
