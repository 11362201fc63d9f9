"""Load CIFAR-10 and CIFAR-100 (Krizhevsky 2009), and split their test images into a calibration set and the rest."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "benchmarks" / ".cache"

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Archive:
    """An archive as the authors distribute it: the file, its parts, and the number of label bytes per image."""

    file: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: int


ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-binary.tar.gz", tuple(f"data_batch_{part}.bin" for part in range(1, 6)), ("test_batch.bin",), 1
    ),
    "cifar100": Archive("cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), 2),
}


@dataclass(frozen=True)
class Cifar:
    """A data set. Images are (N, 32, 32, 3) uint8 RGB, labels (N,) int64 from 0 to classes - 1."""

    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return int(self.y_train.max()) + 1

    def statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean and standard deviation (3,) float32 of each channel of the training images, scaled to [0, 1]."""
        # Histograms with 256 counts per channel are exact and need no float copy of 150 million values.
        levels = np.arange(256) / 255.0
        channels = [np.bincount(self.x_train[..., c].ravel(), minlength=256) for c in range(3)]
        shares = np.stack(channels) / self.x_train[..., 0].size
        mean = shares @ levels
        deviation = np.sqrt(shares @ levels**2 - mean**2)
        return mean.astype(np.float32), deviation.astype(np.float32)


def load(name: str, folder: Path | None = None) -> Cifar:
    """Load a data set from the cache, and convert it into the cache on first use.

    Args:
        name: `cifar10` or `cifar100`.
        folder: folder with the authors' archive (`cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz`, from
            www.cs.toronto.edu/~kriz/cifar.html), or with an `unpack.py` that writes the arrays of `Cifar` to an `.npz`.
            None uses the environment variable MMGUARD_DATA, or else `../shared/data` next to the repository.

    Returns:
        The whole data set.

    Raises:
        FileNotFoundError: neither the cache nor the folder has the data set.
        subprocess.CalledProcessError: `unpack.py` failed.
    """
    path = CACHE / f"{name}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(
            f".{os.getpid()}.partial.npz"
        )  # renamed once complete, because several scripts may start at the same time
        chosen = folder or Path(os.environ.get("MMGUARD_DATA", ROOT.parent / "shared" / "data"))
        _bring(name, chosen, partial)
        partial.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return Cifar(arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"])


def _bring(name: str, folder: Path, path: Path) -> None:
    archive, script = folder / ARCHIVES[name].file, folder / "unpack.py"
    if archive.is_file():
        np.savez_compressed(path, **vars(read_archive(archive, ARCHIVES[name])))
    elif script.is_file():
        subprocess.run([sys.executable, str(script), name, str(path)], check=True)
    else:
        raise FileNotFoundError(
            f"{folder} has no {archive.name}; download it from www.cs.toronto.edu/~kriz/cifar.html, "
            "and pass its folder with --data-folder or MMGUARD_DATA"
        )


def read_archive(path: Path, form: Archive) -> Cifar:
    """Read an archive of the binary version: for each image the label bytes, the finest last, then the pixels."""
    with tarfile.open(path) as archive:
        files = {Path(member.name).name: member for member in archive if member.isfile()}

        def split(names: Sequence[str]) -> tuple[Images, Labels]:
            content = b"".join(archive.extractfile(files[name]).read() for name in names)  # type: ignore[union-attr]
            rows = np.frombuffer(content, np.uint8).reshape(-1, form.labels + 3 * 32 * 32)
            pixels = rows[:, form.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            return np.ascontiguousarray(pixels), rows[:, form.labels - 1].astype(np.int64)

        return Cifar(*split(form.train), *split(form.test))


def calibration_split(labels: Labels, per_class: int = 50, seed: int = 0) -> tuple[Labels, Labels]:
    """Split the test images into a calibration set and the rest, on which detection is measured.

    Args:
        labels: (N,) int64, labels of the test images.
        per_class: images of each class in the calibration set; 50 in the paper.
        seed: seed of the random draw.

    Returns:
        Sorted indices into the test images, (K * per_class,) and (N - K * per_class,) int64, without overlap.

    Raises:
        ValueError: a class has `per_class` images or fewer.
    """
    counts = np.bincount(labels)
    if counts.min() <= per_class:
        raise ValueError(f"per_class is {per_class}, but the smallest class has only {counts.min()} test images")
    generator = np.random.default_rng(seed)
    members = (np.flatnonzero(labels == label) for label in range(counts.size))
    chosen = np.sort(np.concatenate([generator.choice(group, per_class, replace=False) for group in members]))
    return chosen, np.setdiff1d(np.arange(labels.size), chosen)


def normalise(x: Images, mean: NDArray[np.float32], deviation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert images (N, 32, 32, 3) uint8 to a network's input (N, 3, 32, 32) float32: (x / 255 - mean) / deviation."""
    scaled = (x.astype(np.float32) / np.float32(255) - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
