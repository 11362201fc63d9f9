"""The guard bundle: a folder with a manifest, the two networks, the bounds and probes. See docs/bundle.md.

It is all that passes from calibration to the guard. It is written to a temporary folder and renamed, and every file's
size and hash is checked before any is used.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mmguard.errors import BundleError, SchemaError, TamperedBundleError
from mmguard.manifest import FileEntry, Manifest

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
BOUNDS = "bounds.safetensors"
PROBES = "probes.safetensors"
REPORT = "report.html"
MAX_MANIFEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Probes:
    """Inputs drawn from the box at calibration, with the logits that both networks must give for them.

    They tell, without clean data, whether a predictor is the bundle's model and whether a runtime computes as it
    should. No input of D is in a bundle.

    Attributes:
        x: (n, ...) float32. original, clipped: (n, K) float32 logits.
    """

    x: npt.NDArray[np.float32]
    original: npt.NDArray[np.float32]
    clipped: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files all have the size and hash that its manifest says."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the manifest and check every file against it.

        Raises:
            BundleError: not a bundle.
            SchemaError: a manifest that this version does not read, or of another number of classes than the model's.
            TamperedBundleError: a file is missing, or its size or hash differs, or the probes are none.
        """
        path = Path(path)
        manifest_path = path / MANIFEST
        if not manifest_path.is_file():
            raise BundleError(f"{path} is not a guard bundle (no {MANIFEST}); `mmguard calibrate` writes one")
        if manifest_path.stat().st_size > MAX_MANIFEST_BYTES:
            raise SchemaError(f"{manifest_path} is larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            manifest = Manifest.from_json(manifest_path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise SchemaError(f"{manifest_path} is not UTF-8: {error}") from error
        for name, entry in manifest.files.items():
            _check_file(path, name, entry)
        for name in (*manifest.plans.values(), BOUNDS, PROBES):
            if name not in manifest.files:
                raise SchemaError(f"{manifest_path} does not list {name}")
        bundle = cls(path, manifest)
        if (logits := bundle.probes().original.shape[-1]) != len(manifest.classes):
            raise SchemaError(f"{manifest_path} names {len(manifest.classes)} classes, the model has {logits} logits")
        return bundle

    def digest(self) -> str:
        """SHA-256 of the manifest, which holds those of all other files: compare it to know a bundle again."""
        return sha256(self.path / MANIFEST)

    def plan(self, form: str) -> Path:
        """Path of the ONNX file that the guard runs for the form `original` or `clipped`."""
        return self.path / self.manifest.plans[form]

    def report(self) -> Path:
        """Path of the page for reviewers.

        Raises:
            BundleError: the bundle has none.
        """
        if REPORT not in self.manifest.files:
            raise BundleError(f"{self.path} has no {REPORT}: an older mmguard wrote it; calibrate again")
        return self.path / REPORT

    def bounds(self) -> dict[str, npt.NDArray[np.float32]]:
        """Bounds by value name, float32, one number a channel, broadcastable against the value."""
        return _load_tensors(self.path / BOUNDS)

    def probes(self) -> Probes:
        """The stored probes.

        Raises:
            TamperedBundleError: they are not the three tensors expected.
        """
        tensors = _load_tensors(self.path / PROBES)
        if set(tensors) != {"x", "original", "clipped"}:
            raise TamperedBundleError(f"{self.path / PROBES} holds {sorted(tensors)}, not x, original and clipped")
        return Probes(**tensors)

    def provenance(self) -> dict[str, Any]:
        """Times, durations and hardware of the calibration: what may differ between two equal runs.

        Raises:
            BundleError: the file is missing or not JSON; it has no hash, since nothing depends on it.
        """
        path = self.path / PROVENANCE
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error
        return result


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` on a clean exit and vanishes on any other.

    Raises:
        BundleError: `out` exists and is not a guard bundle, or its parent folder or a file in it cannot be written.
    """
    check_destination(out)
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BundleError(f"{out.parent} cannot be written: {error}") from error
    old = folder.with_name(f"{folder.name}.old")
    try:
        folder.chmod(0o755)
        yield folder
        Bundle.open(folder)  # what cannot be read must not take the place of an older bundle
        _replace(out, folder, old)
    except OSError as error:
        raise BundleError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def check_destination(out: Path) -> None:
    """Refuse to write over anything but a guard bundle.

    Raises:
        BundleError: `out` exists and is not a guard bundle, or its folder cannot be written.
    """
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        raise BundleError(f"{out} cannot be written: {parent} is not a folder that you may write to")
    if out.exists() and not all(
        (out / name).is_file() for name in (MANIFEST, BOUNDS)
    ):  # other tools have manifests too
        raise BundleError(f"{out} exists and is not a guard bundle; choose another --out or remove it")


def write(folder: Path, manifest: Manifest, provenance: dict[str, Any]) -> None:
    """Complete a staged folder: hash what lies in it, add the manifest and the provenance.

    Args:
        folder: holds the networks, bounds and probes already.
        manifest: its `files` are filled in here.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: FileEntry((folder / name).stat().st_size, sha256(folder / name)) for name in names}
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    (folder / MANIFEST).write_text(replace(manifest, files=files).to_json(), encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, npt.NDArray[np.float32]]) -> None:
    """Write float32 arrays as safetensors."""
    path.write_bytes(save({name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}))


def _load_tensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    try:
        tensors: dict[str, npt.NDArray[np.float32]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TamperedBundleError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    path = folder / name
    if not path.is_file():
        raise TamperedBundleError(f"{folder}: {name} is missing; copy the whole bundle folder again")
    size = path.stat().st_size
    if size != entry.size:
        raise TamperedBundleError(f"{folder}: {name} has {size} bytes, the manifest says {entry.size}; do not use it")
    if sha256(path) != entry.sha256:
        raise TamperedBundleError(f"{folder}: {name} does not have the hash that the manifest says; do not use it")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(out: Path, folder: Path, old: Path) -> None:
    """Rename `folder` to `out`. An older bundle there is moved to `old` first, since a folder cannot be overwritten.

    It is put back where anything, an interruption too, comes in between.
    """
    try:
        if out.exists():
            out.rename(old)
        folder.rename(out)
    except OSError as error:
        raise BundleError(f"{out} cannot be replaced: {error}; is another calibration writing it?") from error
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
