"""The guard bundle: a folder with the manifest, both networks, the bounds and the probes. See docs/bundle.md.

The bundle contains everything that the guard needs from calibration. The bundle is written to a hidden folder and then
moved into place. The size and hash of every file listed in the manifest are checked before any file is used.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mmguard.bundle.decoding import read_json, shortened
from mmguard.bundle.file_names import BOUNDS, MANIFEST, PROBES, PROVENANCE, REPORT
from mmguard.bundle.integrity import check_contents
from mmguard.bundle.manifest import Manifest
from mmguard.bundle.tensors import Floats, read_tensors
from mmguard.detection.audit import Audit
from mmguard.detection.audit import audit as audit_margins
from mmguard.errors import BundleError, ReplacedBundleError, SchemaError

MAX_MANIFEST_BYTES = 32 * 2**20
MAX_PROVENANCE_BYTES = 2**20
ATTEMPTS = 20
"""Largest number of attempts to open a bundle that another process keeps replacing."""


@dataclass(frozen=True)
class Probes:
    """Random inputs, with the logits that each network must return for them.

    Probes make it possible to check, without clean data, whether a predictor is the bundle's model and whether a
    runtime computes correctly. They are drawn from the input box; a bundle contains no inputs from the calibration set.

    Attributes:
        x: (n, ...) float32 inputs.
        original: (n, K) float32 logits of the original network.
        clipped: (n, K) float32 logits of the clipped network.
        activations: (n, S + 1) float32, what the test reads of the original network's activations; None if it reads
            none.
    """

    x: npt.NDArray[np.float32]
    original: npt.NDArray[np.float32]
    clipped: npt.NDArray[np.float32]
    activations: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, whose files matched the sizes and hashes in its manifest when it was opened.

    Attributes:
        path: the bundle's folder.
        manifest: the bundle's manifest.
        sha256: SHA-256 of the manifest.
        folder: device, inode and change time of the folder that was opened. They show whether the folder has been
            replaced since then.
    """

    path: Path
    manifest: Manifest
    sha256: str
    folder: tuple[int, ...]

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a bundle: read the manifest, and check every file against the manifest.

        If a calibration replaces the bundle while this method runs, either the old or the new bundle is opened, never
        a mixture of both.

        Args:
            path: the bundle's folder.

        Returns:
            The bundle.

        Raises:
            BundleError: There is no bundle at this path, or its manifest cannot be read.
            SchemaError: This version of mmguard cannot read the manifest, or the number of classes in the manifest
                differs from the number of logits of the model.
            TamperedBundleError: A file is missing, is not listed in the manifest, does not match its size or hash in
                the manifest, or contains tensors that do not fit the manifest.
            ReplacedBundleError: The bundle was replaced during every attempt to open it.
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
        raise ReplacedBundleError(f"{path} was replaced during each of {ATTEMPTS} attempts to open it; try again later")

    @classmethod
    def _read(cls, path: Path, folder: tuple[int, ...]) -> Self:
        text = _read_bounded(path)
        bundle = cls(path, Manifest.from_json(text), hashlib.sha256(text).hexdigest(), folder)
        check_contents(path, bundle.manifest)
        return bundle

    @property
    def in_place(self) -> bool:
        """Whether the folder at `path` is still the folder that was opened."""
        return _folder(self.path) == self.folder

    def require_in_place(self) -> None:
        """Check that the bundle has not been replaced since it was opened.

        If the check passes, all files that were read so far belong to the same bundle.

        Raises:
            ReplacedBundleError: The folder has been replaced, changed or removed.
        """
        if not self.in_place:
            raise ReplacedBundleError(f"{self.path} was replaced or changed while it was being read; open it again")

    def digest(self) -> str:
        """Return the SHA-256 of the manifest.

        This hash identifies the bundle, because the manifest contains the hashes of all files that the guard uses.
        """
        return self.sha256

    def runtime_graph(self, form: str) -> Path:
        """Return the path of an ONNX file that the guard runs.

        Args:
            form: `original`, `clipped` or, if the model has derived outputs, `head`.

        Returns:
            Path of the file in the bundle's folder.
        """
        return self.path / self.manifest.runtime_graphs[form]

    def report(self) -> Path:
        """Return the path of the report, an HTML page for people who review the bundle.

        Returns:
            Path of the report in the bundle's folder.

        Raises:
            BundleError: The bundle has no report.
        """
        if REPORT not in self.manifest.files:
            raise BundleError(
                f"{self.path} has no {REPORT}, because an older version of mmguard wrote the bundle; calibrate again"
            )
        return self.path / REPORT

    def bounds(self) -> dict[str, Floats]:
        """Read the bounds.

        Returns:
            A dict that maps the ONNX name of each clipped value to a float32 array with one bound per channel,
            broadcastable to the shape of the value.

        Raises:
            TamperedBundleError: The file cannot be read, or a bound is NaN or infinite.
        """
        return read_tensors(self.path / BOUNDS)

    def probes(self) -> Probes:
        """Read the probes.

        Returns:
            The random inputs, with the logits stored for them.

        Raises:
            TamperedBundleError: The file cannot be read, or an input or a logit is NaN or infinite.
        """
        return Probes(**read_tensors(self.path / PROBES))

    def audit(self) -> Audit:
        """Judge whether the original network is backdoored and, if so, which class the backdoor targets.

        The command `mmguard audit` prints the same verdict.

        Returns:
            The verdict, its p-value and the suspected class.

        Raises:
            AuditError: The bundle was calibrated without an audit or with too little time for it, or the model has two
                classes and too few clean inputs of a class.
        """
        figures = self.manifest.calibration
        return audit_margins(figures.margins(), figures.audit_cut)

    def provenance(self) -> dict[str, Any]:
        """Read the time and hardware of the calibration, which may differ between two otherwise identical runs.

        The manifest has no hash of `provenance.json`, because the guard does not use this file.

        Returns:
            The JSON object in `provenance.json`.

        Raises:
            BundleError: The file cannot be read, is too large, or does not contain a JSON object.
        """
        path = self.path / PROVENANCE
        try:
            return _read_object(path)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be read: {shortened(error)}") from error


def _folder(path: Path) -> tuple[int, ...]:
    """Return a tuple that identifies the folder at a path; empty if there is no folder.

    The tuple contains the time of the last status change, because inode numbers are reused and copying can preserve
    modification times.
    """
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file, and refuse a file that is too large to be `provenance.json`."""
    with path.open("rb") as file:
        text = file.read(MAX_PROVENANCE_BYTES + 1)
    if len(text) > MAX_PROVENANCE_BYTES:
        raise ValueError(f"it is larger than {MAX_PROVENANCE_BYTES} bytes")
    if not isinstance(result := read_json(text), dict):
        raise ValueError("it is not a JSON object")
    return result


def _read_bounded(path: Path) -> bytes:
    """Read the manifest of the bundle at a path, and refuse a manifest that is too large."""
    if not (path / MANIFEST).is_file():
        what = f"not a guard bundle (no {MANIFEST})" if path.exists() else "no such folder"
        raise BundleError(f"{path}: {what}; use `mmguard calibrate` to write a bundle")
    try:
        with (path / MANIFEST).open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path / MANIFEST} cannot be read: {error}") from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise SchemaError(f"{path / MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    return text
