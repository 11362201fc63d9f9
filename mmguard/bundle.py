"""The guard bundle: a folder with a manifest, the two networks, the bounds and probes. See docs/bundle.md.

It is all that passes from calibration to the guard. It is written aside and put in place, and every file's size and
hash is checked before any is used.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mmguard.contents import BOUNDS, MANIFEST, PROBES, PROVENANCE, REPORT, check_contents, sha256
from mmguard.decoding import read_json, shortened
from mmguard.errors import BundleError, ReplacedBundleError, SchemaError, UnwrittenBundleError
from mmguard.manifest import FileEntry, Manifest
from mmguard.staging import NEW, OLD, beside, put_in_place, sweep
from mmguard.tensors import Floats, read_tensors, write_tensors

__all__ = [
    "BOUNDS",
    "MANIFEST",
    "PROBES",
    "PROVENANCE",
    "REPORT",
    "Bundle",
    "Probes",
    "check_destination",
    "sha256",
    "staged",
    "write",
    "write_tensors",
]

MAX_MANIFEST_BYTES = 32 * 2**20
MAX_PROVENANCE_BYTES = 2**20
MAX_NAME_BYTES = 200
"""File systems take 255, and hidden names beside the bundle's are up to 30 longer."""
ATTEMPTS = 20
"""How often a bundle is opened that another process replaces meanwhile."""


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
    """A bundle on disk whose files all have the size and hash that its manifest says.

    Attributes:
        sha256: of the manifest. folder: what tells that another folder has taken the place of the one that was opened.
    """

    path: Path
    manifest: Manifest
    sha256: str
    folder: tuple[int, ...]

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the manifest and check every file against it.

        While a calibration replaces the bundle, this opens the older one or the newer one, and no mixture.

        Raises:
            BundleError: not a bundle.
            SchemaError: a manifest that this version does not read, or of another number of classes than the model's.
            TamperedBundleError: a file is missing, or its size or hash differs, or it is not listed, or the tensors are
                not those of the manifest.
        """
        path = Path(path)
        for _ in range(ATTEMPTS):
            folder = _folder(path)
            try:
                bundle = cls._read(path, folder)
            except BundleError:
                if _folder(path) == folder:
                    raise
            else:
                if bundle.in_place:
                    return bundle
        raise ReplacedBundleError(f"{path} was replaced again each time it was opened; try again later")

    @classmethod
    def _read(cls, path: Path, folder: tuple[int, ...]) -> Self:
        text = _read_bounded(path)
        bundle = cls(path, Manifest.from_json(text), hashlib.sha256(text).hexdigest(), folder)
        check_contents(path, bundle.manifest)
        return bundle

    @property
    def in_place(self) -> bool:
        """Whether the folder at the path is still the one that was opened."""
        return _folder(self.path) == self.folder

    def require_in_place(self) -> None:
        """Refuse to go on with files that were read after another folder took the place of the one that was opened.

        Raises:
            ReplacedBundleError: it did.
        """
        if not self.in_place:
            raise ReplacedBundleError(f"{self.path} was replaced or changed while it was read; open it again")

    def digest(self) -> str:
        """SHA-256 of the manifest, which holds those of all other files: compare it to know a bundle again."""
        return self.sha256

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

    def bounds(self) -> dict[str, Floats]:
        """Bounds by value name, float32, one number a channel, broadcastable against the value.

        Raises:
            TamperedBundleError: one is NaN or infinite.
        """
        return read_tensors(self.path / BOUNDS)

    def probes(self) -> Probes:
        """The stored probes.

        Raises:
            TamperedBundleError: a number is NaN or infinite.
        """
        return Probes(**read_tensors(self.path / PROBES))

    def provenance(self) -> dict[str, Any]:
        """Times, durations and hardware of the calibration: what may differ between two equal runs.

        Raises:
            BundleError: the file is missing or not a JSON object; it has no hash, since nothing depends on it.
        """
        path = self.path / PROVENANCE
        try:
            with path.open("rb") as file:
                text = file.read(MAX_PROVENANCE_BYTES + 1)
            if len(text) > MAX_PROVENANCE_BYTES:
                raise ValueError(f"it is larger than {MAX_PROVENANCE_BYTES} bytes")
            if not isinstance(result := read_json(text), dict):
                raise ValueError("it is no JSON object")
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be read: {shortened(error)}") from error
        return result


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` on a clean exit and vanishes on any other.

    What earlier calibrations of `out` left when they were killed is removed.

    Raises:
        BundleError: `out` exists and is not a guard bundle.
        UnwrittenBundleError: its parent folder or a file in it cannot be written.
    """
    check_destination(out)
    out = out.resolve()
    try:
        sweep(out)
        with beside(out) as folder:
            (folder / NEW).mkdir()
            yield folder / NEW
            Bundle.open(folder / NEW)  # what cannot be read must not take the place of an older bundle
            put_in_place(folder / NEW, out, folder / OLD)
    except OSError as error:
        raise UnwrittenBundleError(f"{out} cannot be written: {error}") from error


def check_destination(out: Path) -> None:
    """Refuse to write over anything but a guard bundle.

    Raises:
        BundleError: `out` exists and is not a guard bundle, its name is too long, or its folder cannot be written.
    """
    if len(os.fsencode(out.name)) > MAX_NAME_BYTES:
        raise BundleError(f"{out} cannot be written: give --out a name of at most {MAX_NAME_BYTES} bytes")
    if out.exists() and not all((out / name).is_file() for name in (MANIFEST, BOUNDS)):  # others have manifests too
        raise BundleError(f"{out} exists and is not a guard bundle; choose another --out or remove it")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        raise BundleError(f"{out} cannot be written: {parent} is not a folder that you may write to")


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


def _folder(path: Path) -> tuple[int, ...]:
    """What tells a folder from another at the same path; nothing where there is none.

    Numbers of folders are used again, and times of modification are copied with files; those of change are not.
    """
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _read_bounded(path: Path) -> bytes:
    """The manifest's text."""
    if not (path / MANIFEST).is_file():
        what = f"not a guard bundle (no {MANIFEST})" if path.exists() else "no such folder"
        raise BundleError(f"{path}: {what}; `mmguard calibrate` writes a guard bundle")
    try:
        with (path / MANIFEST).open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path / MANIFEST} cannot be read: {error}") from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise SchemaError(f"{path / MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    return text
