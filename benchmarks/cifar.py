"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as arrays, and the split of the test images that a user of mmguard has."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "benchmarks" / ".cache"

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Cifar:
    """One data set. Images are (N, 32, 32, 3) uint8 RGB, labels (N,) int64 in 0 .. classes - 1."""

    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return int(self.y_train.max()) + 1

    def statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation (3,) float32 of each channel over the training split, pixels scaled to [0, 1]."""
        # From histograms: 256 counts a channel are exact and need no float copy of 150 million values.
        levels = np.arange(256) / 255.0
        channels = [np.bincount(self.x_train[..., c].ravel(), minlength=256) for c in range(3)]
        shares = np.stack(channels) / self.x_train[..., 0].size
        mean = shares @ levels
        deviation = np.sqrt(shares @ levels**2 - mean**2)
        return mean.astype(np.float32), deviation.astype(np.float32)


def data_folder(folder: Path | None = None) -> Path:
    """Where the packed data sets lie: `folder`, else `MMGUARD_DATA`, else `../shared/data` beside the repository.

    Raises:
        FileNotFoundError: the folder has no `unpack.py`.
    """
    chosen = folder or Path(os.environ.get("MMGUARD_DATA", ROOT.parent / "shared" / "data"))
    if not (chosen / "unpack.py").is_file():
        raise FileNotFoundError(f"no unpack.py in {chosen}; give the data folder by --data-folder or MMGUARD_DATA")
    return chosen


def load(name: str, folder: Path | None = None) -> Cifar:
    """The data set `cifar10` or `cifar100`, unpacked into the cache on first use.

    Raises:
        FileNotFoundError: neither the cache nor the data folder has it.
        subprocess.CalledProcessError: unpacking failed.
    """
    path = CACHE / f"{name}.npz"
    if not path.is_file():
        _unpack(name, data_folder(folder), path)
    with np.load(path, allow_pickle=False) as arrays:
        return Cifar(arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"])


def _unpack(name: str, folder: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial.npz")  # renamed when whole: several scripts may start at once
    subprocess.run([sys.executable, str(folder / "unpack.py"), name, str(partial)], check=True)
    partial.replace(path)


def calibration_split(labels: Labels, per_class: int = 50, seed: int = 0) -> tuple[Labels, Labels]:
    """Divide the test split into D, which calibration may use, and the rest, on which detection is measured.

    Args:
        labels: (N,) int64, labels of the test split.
        per_class: images of each class in D; 50 in the paper.
        seed: of the draw.

    Returns:
        Indices into the test split, sorted, (K * per_class,) and (N - K * per_class,) int64, without overlap.

    Raises:
        ValueError: a class has no more than `per_class` images.
    """
    counts = np.bincount(labels)
    if counts.min() <= per_class:
        raise ValueError(f"per_class is {per_class}, but the smallest class has only {counts.min()} test images")
    generator = np.random.default_rng(seed)
    members = (np.flatnonzero(labels == label) for label in range(counts.size))
    chosen = np.sort(np.concatenate([generator.choice(group, per_class, replace=False) for group in members]))
    return chosen, np.setdiff1d(np.arange(labels.size), chosen)


def normalise(x: Images, mean: NDArray[np.float32], deviation: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the networks take: (N, 32, 32, 3) uint8 -> (N, 3, 32, 32) float32, (x / 255 - mean) / deviation."""
    scaled = (x.astype(np.float32) / np.float32(255) - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
