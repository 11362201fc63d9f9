"""The fingerprint of a calibration: on the same machine, calibrations with equal fingerprints learn the same bounds."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.provenance import versions
from mmguard.settings.settings import Settings

Fingerprint = dict[str, Any]
"""JSON values by name. The names appear in messages to users. Files and arrays are represented by their SHA-256
hashes."""

FORMAT = 1
"""Version of the checkpoint format."""


def fingerprint(
    files: Iterable[Path],
    x: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
    box: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    settings: Settings,
    seed: int,
    device: str,
) -> Fingerprint:
    """Return the fingerprint of a calibration.

    Args:
        files: the model file and the files that contain its external weights.
        x: (N, ...) float32, the clean inputs D.
        labels: (N,) int64, labels of D; None if D is unlabelled.
        box: lower and upper limits of feasible inputs, float32.
        settings: settings of the calibration.
        seed: random seed of the calibration.
        device: torch device of the calibration.

    Returns:
        The fingerprint: JSON values by name.
    """
    installed = versions()
    return {
        **settings.as_json(),
        "seed": seed,
        "device": device,
        "format": FORMAT,
        "mmguard": installed.get("mmguard"),
        "torch": installed.get("torch"),
        "model": _hash_of_files(files),
        "clean inputs": digest({"x": x}),
        "labels": digest({} if labels is None else {"labels": labels}),
        "input box": digest(dict(zip(("low", "high"), box, strict=True))),
    }


def differences(kept: Fingerprint, own: Fingerprint) -> list[str]:
    """List the entries that differ between two fingerprints.

    Args:
        kept: fingerprint in the checkpoint.
        own: fingerprint of this calibration.

    Returns:
        Names of the entries that differ, each followed by both values unless the values are hashes.

    Example:
        >>> differences({"seed": 0, "device": "cpu"}, {"seed": 1, "device": "cpu"})
        ['seed (0, now 1)']
    """
    names = [name for name in {**own, **kept} if kept.get(name) != own.get(name)]
    return [name if _is_hash(own.get(name)) else f"{name} ({kept.get(name)}, now {own.get(name)})" for name in names]


def digest(arrays: dict[str, npt.NDArray[Any]], text: str = "") -> str:
    """Return a SHA-256 hash that covers a text and the names, dtypes, shapes and contents of arrays.

    Args:
        arrays: arrays by name; their order does not matter.
        text: text to include in the hash.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> digest({"x": np.zeros(2)}) == digest({"x": np.zeros((2, 1))})
        False
    """
    total = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _hash_of_files(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64
