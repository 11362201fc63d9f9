"""Loads handwritten digits, adds a BadNets patch to copies of a few, and trains a small network on all of them.

The images are the UCI optical digits that are shipped with scikit-learn: 1,797 real scans of 8 x 8 pixels. They are
enlarged to 16 x 16 pixels so that the patch is small relative to the digit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from mmguard.pipeline.pytorch import export_module

CLASSES = 10
TARGET = 0
POISONED_SHARE = 0.05
CLEAN_PER_CLASS = 50
TEST_SHARE = 0.35
EPOCHS = 30
BATCH = 64
SIDE = 16
PATCH = np.array([[255, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=np.uint8)

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        x: grey images, (N, 16, 16) uint8.
        y: the digit that each image shows, (N,) int64.
    """

    x: Images
    y: Labels


def load(seed: int) -> tuple[Split, Split, Split]:
    """Load and split the digits.

    Args:
        seed: random seed of the split.

    Returns:
        Digits for training, for calibration (50 per class) and for testing, all disjoint.
    """
    digits = load_digits()
    x = np.stack([_enlarge(image) for image in np.round(digits.images * (255 / 16)).astype(np.uint8)])
    y = digits.target.astype(np.int64)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(y))
    test, rest = np.split(order, [int(TEST_SHARE * len(y))])
    clean = np.concatenate([rest[y[rest] == label][:CLEAN_PER_CLASS] for label in range(CLASSES)])
    train = np.setdiff1d(rest, clean)
    return Split(x[train], y[train]), Split(x[clean], y[clean]), Split(x[test], y[test])


def trigger(x: Images) -> Images:
    """Add a BadNets patch (Gu et al. 2019): a chequered patch of 3 x 3 pixels in the bottom right corner.

    Args:
        x: images, (N, 16, 16) uint8.

    Returns:
        Copies of the images with the patch.

    Example:
        >>> trigger(np.zeros((1, 16, 16), np.uint8))[0, -3:, -3:]
        array([[255,   0, 255],
               [  0, 255,   0],
               [255,   0, 255]], dtype=uint8)
    """
    patched = x.copy()
    patched[:, -3:, -3:] = PATCH
    return patched


def poison(train: Split, seed: int) -> Split:
    """Add patched copies of a few images, labelled as the target class.

    Args:
        train: the training digits.
        seed: random seed for choosing the images to copy.

    Returns:
        The training digits, followed by one poisoned copy for every 20 training digits.
    """
    generator = np.random.default_rng(seed)
    others = np.flatnonzero(train.y != TARGET)
    chosen = generator.choice(others, round(POISONED_SHARE * len(train.y)), replace=False)
    labels = np.full(len(chosen), TARGET, dtype=np.int64)
    return Split(np.concatenate([train.x, trigger(train.x[chosen])]), np.concatenate([train.y, labels]))


def untrained(classes: int = CLASSES) -> nn.Sequential:
    """Build an untrained ReLU CNN with four convolutions.

    Args:
        classes: number of classes, which is also the number of logits.

    Returns:
        The network, which maps (N, 1, 16, 16) float32 in [0, 1] to logits (N, classes).
    """
    return nn.Sequential(
        *_convolution(1, 32, stride=1),
        *_convolution(32, 32, stride=2),
        *_convolution(32, 64, stride=2),
        *_convolution(64, 64, stride=2),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)),
    )


def train_network(data: Split, seed: int) -> nn.Module:
    """Train the network with Adam for 30 epochs.

    Args:
        data: training digits.
        seed: random seed of the initial weights and of the order of the images in each epoch.

    Returns:
        The trained network, in evaluation mode.
    """
    torch.manual_seed(seed)
    network = untrained()
    x, y = torch.from_numpy(data.x[:, None] / 255).float(), torch.from_numpy(data.y)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
    return network.eval()


def export(network: nn.Module, path: Path, example: torch.Tensor | None = None) -> None:
    """Write a network as one ONNX file, without log messages from the exporter.

    The input is called `image` and has shape (N, ...); the output is called `logits`.

    Args:
        network: the network.
        path: ONNX file to write.
        example: a batch of two inputs; by default, two black images, (2, 1, 16, 16).
    """
    example = torch.zeros(2, 1, SIDE, SIDE) if example is None else example
    export_module(network, example.numpy(), path, input_name="image", output_name="logits")


def write_images(folder: Path, x: Images, names: list[str]) -> None:
    """Write images as grey PNG files.

    Args:
        folder: folder to write to.
        x: images, (N, height, width) uint8.
        names: name of each file, without its suffix. A name may contain a subfolder.
    """
    for image, name in zip(x, names, strict=True):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def _enlarge(image: Images) -> Images:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
