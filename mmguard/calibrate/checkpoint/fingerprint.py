"""What a calibration depends on: two of the same fingerprint learn the same bounds on one machine."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.provenance import versions
from mmguard.settings.settings import Settings

Fingerprint = dict[str, Any]
"""JSON values by a name that a person knows; files and arrays are their SHA-256."""

FORMAT = 1
"""Version of what a checkpoint holds."""


def fingerprint(
    files: Iterable[Path],
    x: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
    box: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    settings: Settings,
    seed: int,
    device: str,
) -> Fingerprint:
    """The fingerprint of a calibration.

    Args:
        files: the model, and the files of its external weights.
        x: (N, ...) float32, D. labels: (N,) int64 or None.
        box: low and high of the feasible inputs.
        settings, seed, device: the calibrator's.
    """
    installed = versions()
    return {
        **settings.as_json(),
        "seed": seed,
        "device": device,
        "format": FORMAT,
        "mmguard": installed.get("mmguard"),
        "torch": installed.get("torch"),
        "model": _of_files(files),
        "clean inputs": digest({"x": x}),
        "labels": digest({} if labels is None else {"labels": labels}),
        "input box": digest(dict(zip(("low", "high"), box, strict=True))),
    }


def differences(kept: Fingerprint, own: Fingerprint) -> list[str]:
    """What differs, in words; of files and arrays only that they do."""
    names = [name for name in {**own, **kept} if kept.get(name) != own.get(name)]
    return [name if _is_hash(own.get(name)) else f"{name} ({kept.get(name)}, now {own.get(name)})" for name in names]


def digest(arrays: dict[str, npt.NDArray[Any]], text: str = "") -> str:
    """SHA-256 of a text and of arrays with their names, dtypes and shapes, in the order of the names."""
    total = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _of_files(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64
