"""Calibrate a guard for a network of the zoo as a user does, with the command, and cache the bundle."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import mmguard
from benchmarks import cifar
from benchmarks.cifar import Images
from benchmarks.suspect import CleanSet, Suspect
from mmguard import Bundle, Decision, Guard, Policy
from mmguard.errors import BundleError
from mmguard.inputs.preprocessing import normalise
from mmguard.settings import preset as find_preset
from mmguard.settings.settings import Settings

BATCH = 100
BOTH = Policy(screen=0)
"""Runs both networks on every input; `benchmarks.screening` measures what the screen changes."""


def bundle_of(suspect: Suspect, clean: CleanSet, preset: str, rounds: int | None, seed: int) -> Bundle:
    """Return the guard bundle of a network, from the cache or by calibrating.

    The cache is used if the same code made the bundle from the same model file, calibration set, settings and seed.

    Args:
        suspect: network to guard.
        clean: calibration set.
        preset: `--preset` of `mmguard calibrate`.
        rounds: `--rounds` of `mmguard calibrate`; None uses the preset's.
        seed: seed of the calibration.

    Returns:
        The opened bundle.

    Raises:
        subprocess.CalledProcessError: calibration failed.
    """
    digest = sha256(clean.x.tobytes() + clean.y.tobytes()).hexdigest()[:8]
    settings = find_preset(preset)
    settings = settings if rounds is None else replace(settings, rounds=rounds)
    path = cifar.CACHE / "bundles" / f"{suspect.name}-{preset}-{digest}-{seed}-{source_digest()}.mmguard"
    if (kept := _kept(path, suspect, settings)) is not None:
        return kept
    folder = cifar.CACHE / "clean" / digest
    write_clean(folder, clean)
    calibrate(suspect, folder, path, ["--preset", preset, "--rounds", str(settings.rounds), "--seed", str(seed)])
    return Bundle.open(path)


def calibrated(
    suspect: Suspect, clean: CleanSet, preset: str, rounds: int | None, seed: int
) -> tuple[Guard, dict[str, object]]:
    """Return a guard with the bundle of `bundle_of`, and notes on its calibration; arguments and errors as there."""
    bundle = bundle_of(suspect, clean, preset, rounds, seed)
    notes = {
        "calibration_seconds": bundle.provenance()["seconds"],
        "rounds": bundle.manifest.calibration.rounds,
        "settings": bundle.manifest.settings.as_json(),
        "source": source_digest(),
    }
    return Guard(bundle, policy=BOTH, registry=None), notes


@cache
def source_digest() -> str:
    """Return eight hexadecimal digits that change whenever mmguard's code changes."""
    package = Path(mmguard.__file__).parent
    paths = sorted(path for path in package.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyo"))
    content = b"".join(path.relative_to(package).as_posix().encode() + path.read_bytes() for path in paths)
    return sha256(content).hexdigest()[:8]


def _kept(path: Path, suspect: Suspect, settings: Settings) -> Bundle | None:
    try:
        bundle = Bundle.open(path)
    except BundleError:
        return None
    same_model = (path / "original.onnx").read_bytes() == suspect.path.read_bytes()
    same_settings = bundle.manifest.settings == settings
    return bundle if same_model and same_settings else None


def write_clean(folder: Path, clean: CleanSet) -> None:
    """Write the calibration set as a user would provide it: `folder/<class>/<number>.png`."""
    for number, (image, label) in enumerate(zip(clean.x, clean.y, strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def calibrate(suspect: Suspect, clean: Path, bundle: Path, options: Sequence[str]) -> None:
    """Run `mmguard calibrate` with more options, on a GPU if there is one."""
    bundle.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mmguard", "calibrate", str(suspect.path), str(clean), "--out", str(bundle)]
    command += ["--device", "cuda" if torch.cuda.is_available() else "cpu"]
    for option in ("mean", "std"):
        command += [f"--{option}", *map(str, suspect.record[option])]
    subprocess.run([*command, *options], check=True)


def inputs(guard: Guard, x: Images) -> list[NDArray[np.float32]]:
    """Preprocess images (N, 32, 32, 3) uint8 as the guard's manifest says, and split them into batches."""
    preprocessing = guard.bundle.manifest.input.preprocessing
    assert preprocessing is not None, "calibrated on images"
    prepared = np.stack([normalise(image.astype(np.float32), preprocessing) for image in x])
    return [prepared[first : first + BATCH] for first in range(0, len(x), BATCH)]


def joined(decisions: Sequence[Decision]) -> Decision:
    """Concatenate the decisions of several batches."""
    fields = Decision.__dataclass_fields__
    return Decision(**{name: np.concatenate([getattr(each, name) for each in decisions]) for name in fields})


def decide(guard: Guard, x: Images) -> Decision:
    """Return the guard's decisions on images (N, 32, 32, 3) uint8."""
    return joined([guard(batch) for batch in inputs(guard, x)])
