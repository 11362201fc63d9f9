"""Handwritten digits, a BadNets patch on a few of them, and a small network trained on both.

The images are scikit-learn's copy of the UCI optical digits: 1,797 real scans of 8 x 8, shipped inside the package,
here enlarged to 16 x 16 so that a patch is small against a digit.
"""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

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
    """Images (N, 16, 16) uint8 and labels (N,) int64."""

    x: Images
    y: Labels


def load(seed: int) -> tuple[Split, Split, Split]:
    """Digits for training, for calibration (50 a class) and for the test, disjoint."""
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
    """The same images with a BadNets patch (Gu et al. 2019): 3 x 3 chequered pixels in the bottom right corner."""
    patched = x.copy()
    patched[:, -3:, -3:] = PATCH
    return patched


def poison(train: Split, seed: int) -> Split:
    """Add the patched copies of a few images, labelled as the target class."""
    generator = np.random.default_rng(seed)
    others = np.flatnonzero(train.y != TARGET)
    chosen = generator.choice(others, round(POISONED_SHARE * len(train.y)), replace=False)
    labels = np.full(len(chosen), TARGET, dtype=np.int64)
    return Split(np.concatenate([train.x, trigger(train.x[chosen])]), np.concatenate([train.y, labels]))


def untrained(classes: int = CLASSES) -> nn.Sequential:
    """A ReLU CNN of four convolutions; takes (N, 1, 16, 16) in [0, 1], and gives logits (N, classes)."""
    return nn.Sequential(
        *_convolution(1, 32, stride=1),
        *_convolution(32, 32, stride=2),
        *_convolution(32, 64, stride=2),
        *_convolution(64, 64, stride=2),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)),
    )


def train_network(data: Split, seed: int) -> nn.Module:
    """The network, trained by Adam for 30 epochs."""
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
    """Write one ONNX file without a word of the exporter's: input `image` (N, ...), output `logits`.

    Args:
        example: two inputs; None is two images (2, 1, 16, 16).
    """
    example = torch.zeros(2, 1, SIDE, SIDE) if example is None else example
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "the exporter returns a program when it is given no path"
    # The exporter notes stack traces, and with them the user's folders, on every node.
    ClearMetadataAndDocStringPass()(program.model)
    program.save(path, external_data=False)


def write_images(folder: Path, x: Images, names: list[str]) -> None:
    """Write grey PNG files; a name may have a folder in front."""
    for image, name in zip(x, names, strict=True):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def _enlarge(image: Images) -> Images:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
