"""Fine-tune a copy of the network, then distil its attention into the network.

Li, Lyu, Koren, Lyu, Li and Ma 2021, "Neural attention distillation: erasing backdoor triggers from deep neural
networks" (ICLR), "NAD".
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar import Images
from benchmarks.defences.protocol import Mitigated
from benchmarks.defences.training import (
    Objective,
    accuracy,
    batches,
    copy_of,
    cross_entropy,
    descend,
    device,
    labels_of,
)
from benchmarks.published import Published
from benchmarks.suspect import CleanSet, Suspect
from benchmarks.training.augment import crop_and_flip

EPSILON = 1e-6

PUBLISHED = Published(
    source="the authors' release for Li et al. 2021 (github.com/bboylyg/NAD, README, table of BadNets)",
    setting=(
        "CIFAR-10, WRN-16-1, BadNets with a 3x3 grid to one target, 10 % poisoned; 5 % of the training images "
        "(2,500) are clean, cropped and flipped"
    ),
    figures={
        "clean_accuracy_before": 0.8565,
        "attack_success_before": 1.0,
        "clean_accuracy": 0.8212,
        "attack_success": 0.0357,
    },
    from_memory=False,
)


@dataclass(frozen=True)
class AttentionDistillation:
    """Train the network with cross-entropy plus β times the distance of its attention from a fine-tuned copy's.

    Source: Li et al. 2021, sections 3.2 and 4.1: attention is the normalised sum over channels of squared activations,
    at the end of each of the three stages; SGD at 0.1, divided by ten after every two epochs, batches of 64, random
    crops, flips and a cut-out square. Adapted: distances are mean squared differences, as in the authors' release; the
    paper writes an l2 norm, with which their β would outweigh the cross-entropy. If a network has more stages than
    there are β, these belong to the last stages. With 50 images per class an epoch has 8 steps; theirs has 40.

    Attributes:
        per_class: clean images per class.
        teacher_epochs: epochs of fine-tuning the teacher.
        epochs: epochs of distillation.
        batch: images per step.
        learning_rate: initial learning rate of SGD.
        every: epochs after which the learning rate is divided by ten.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        betas: weights of the distances, from the first stage to the last.
        hole: side of the cut-out square in pixels.
    """

    per_class: int = 200
    teacher_epochs: int = 10
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 0.1
    every: int = 2
    momentum: float = 0.9
    weight_decay: float = 1e-4
    betas: tuple[float, ...] = (500.0, 1000.0, 1000.0)
    hole: int = 9

    def mitigate(self, suspect: Suspect, clean: CleanSet, seed: int) -> Mitigated:
        """Train the teacher, then the student; note the teacher's accuracy on the calibration set."""
        generator = np.random.default_rng(seed)
        teacher, student = copy_of(suspect), copy_of(suspect)
        self.train(teacher, clean, cross_entropy(teacher), self.teacher_epochs, generator)
        self.train(student, clean, distillation(teacher, student, self.betas), self.epochs, generator)
        return Mitigated(labels_of(student), {"teacher_accuracy_on_clean_set": accuracy(teacher, clean)})

    def train(
        self, module: nn.Module, clean: CleanSet, objective: Objective, epochs: int, generator: np.random.Generator
    ) -> None:
        """Fine-tune a module in place, and leave it in evaluation mode."""
        optimiser = torch.optim.SGD(
            module.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, self.every, gamma=0.1)
        for _ in range(epochs):
            descend(module, batches(clean, self.batch, generator, self.augment), objective, optimiser)
            schedule.step()

    def augment(self, x: Images, generator: np.random.Generator) -> Images:
        """Crop and flip at random, then cut out a square."""
        return cut_out(crop_and_flip(x, generator), self.hole, generator)


def cut_out(x: Images, side: int, generator: np.random.Generator) -> Images:
    """Black out a square with its centre anywhere in the image, possibly crossing the border (DeVries et al. 2017).

    Args:
        x: (N, H, W, C) uint8.
        side: side of the square, odd.
        generator: draws a centre for each image.

    Returns:
        A new array (N, H, W, C) uint8.
    """
    count, height, width, _ = x.shape
    rows, columns = generator.integers(0, (height, width), size=(count, 2)).T
    near_row = np.abs(np.arange(height) - rows[:, None]) <= side // 2
    near_column = np.abs(np.arange(width) - columns[:, None]) <= side // 2
    return np.where((near_row[:, :, None] & near_column[:, None, :])[..., None], np.uint8(0), x)


def distillation(teacher: nn.Module, student: nn.Module, betas: Sequence[float]) -> Objective:
    """Return the loss: cross-entropy of the student + sum over stages of β times the attention distance (section 3.2).

    Args:
        teacher: fine-tuned copy in evaluation mode; gets no gradient.
        student: copy to train.
        betas: weights of the last stages.
    """
    ends = stage_ends(student)[-len(betas) :]

    def objective(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad(), recorded(teacher, ends) as wanted:
            teacher(x)
        with recorded(student, ends) as found:
            loss = nn.functional.cross_entropy(student(x), y)
        for end, beta in zip(ends, betas[-len(ends) :], strict=True):
            loss = loss + beta * distance(found[end], wanted[end])
        return loss

    return objective


def attention(features: Tensor) -> Tensor:
    """Return A / ||A||_2 (N, H W), with A the sum over channels of squared activations of features (N, C, H, W)."""
    summed = features.square().sum(dim=1).flatten(1)
    normalised: Tensor = summed / (torch.linalg.vector_norm(summed, dim=1, keepdim=True) + EPSILON)
    return normalised


def distance(features: Tensor, others: Tensor) -> Tensor:
    """Return the mean squared difference () in attention of features (N, C, H, W) and others (N, C', H, W)."""
    return (attention(features) - attention(others)).square().mean()


def stage_ends(module: nn.Module) -> list[str]:
    """Return the names, in order, of the blocks after which the shape changes, and of the last block.

    Args:
        module: module of `Suspect.module`, on `device()`.
    """
    names = [f"1.blocks.{name}" for name, _ in module.get_submodule("1.blocks").named_children()]
    with torch.no_grad(), recorded(module, names) as outputs:
        module(torch.zeros(1, 3, 32, 32, device=device()))
    return [one for one, two in pairwise(names) if outputs[one].shape != outputs[two].shape] + names[-1:]


@contextmanager
def recorded(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the named submodules; a later forward pass in the context replaces earlier outputs."""
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> torch.utils.hooks.RemovableHandle:
        return module.get_submodule(name).register_forward_hook(lambda _, __, output: outputs.update({name: output}))

    handles = [record(name) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
