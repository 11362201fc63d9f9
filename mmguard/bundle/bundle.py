"""The guard bundle: a folder with a manifest, the two networks, the bounds and probes. See docs/bundle.md.

It is all that passes from calibration to the guard. It is written aside and put in place, and every file's size and
hash is checked before any is used.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mmguard.bundle.contents import BOUNDS, MANIFEST, PROBES, PROVENANCE, REPORT, check_contents
from mmguard.bundle.decoding import read_json, shortened
from mmguard.bundle.manifest import Manifest
from mmguard.bundle.tensors import Floats, read_tensors
from mmguard.errors import BundleError, ReplacedBundleError, SchemaError

MAX_MANIFEST_BYTES = 32 * 2**20
MAX_PROVENANCE_BYTES = 2**20
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

    def runtime_graph(self, form: str) -> Path:
        """Path of the ONNX file that the guard runs for the form `original` or `clipped`."""
        return self.path / self.manifest.runtime_graphs[form]

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
