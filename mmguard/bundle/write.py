"""Write a guard bundle to a hidden folder first, and then move it into place."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.file_names import BOUNDS, MANIFEST, PROVENANCE
from mmguard.bundle.integrity import sha256
from mmguard.bundle.manifest import FileEntry, Manifest
from mmguard.errors import BundleError, UnwrittenBundleError
from mmguard.files.atomic import NEW, OLD, beside, put_in_place, sweep

MAX_NAME_BYTES = 200
"""Largest size of a bundle's name in bytes. File systems allow 255 bytes, and the name of the hidden folder next to a
bundle is up to 30 bytes longer than the bundle's name."""


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Provide a folder next to `out` that becomes `out` if the context ends without an error, and is removed otherwise.

    Files left behind by killed calibrations with the same `out` are removed.

    Args:
        out: path at which to write the bundle; an older bundle at this path is replaced.

    Yields:
        The empty folder to write the bundle into.

    Raises:
        BundleError: `out` exists and is not a guard bundle, or the new bundle cannot be read back.
        UnwrittenBundleError: The folder or one of its files cannot be written.
    """
    check_destination(out)
    out = out.resolve()
    try:
        sweep(out)
        with beside(out) as folder:
            (folder / NEW).mkdir()
            yield folder / NEW
            Bundle.open(folder / NEW)  # an unreadable bundle must not replace an older one
            put_in_place(folder / NEW, out, folder / OLD)
    except OSError as error:
        raise UnwrittenBundleError(f"{out} cannot be written: {error}") from error


def check_destination(out: Path) -> None:
    """Check that a bundle can be written to a path without overwriting anything other than a bundle.

    Args:
        out: path at which to write the bundle.

    Raises:
        BundleError: `out` exists and is not a guard bundle, its name is too long, or its parent folder cannot be
            written.
    """
    if len(os.fsencode(out.name)) > MAX_NAME_BYTES:
        raise BundleError(
            f"{out} cannot be written: its name is longer than {MAX_NAME_BYTES} bytes; pass an --out with a shorter "
            "name"
        )
    # Other tools also write files called manifest.json, so the file with the bounds must exist too.
    if out.exists() and not all((out / name).is_file() for name in (MANIFEST, BOUNDS)):
        raise BundleError(f"{out} exists and is not a guard bundle; remove it, or pass a different --out")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        raise BundleError(f"{out} cannot be written: {parent} is not a folder that you have permission to write to")


def write(folder: Path, manifest: Manifest, provenance: dict[str, Any]) -> None:
    """Complete a staged folder: hash its files, then add the manifest and the provenance.

    Args:
        folder: the staged folder, which already contains the networks, bounds, probes and report.
        manifest: the manifest, whose `files` field this function fills in.
        provenance: times and hardware of the calibration.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: FileEntry((folder / name).stat().st_size, sha256(folder / name)) for name in names}
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    (folder / MANIFEST).write_text(replace(manifest, files=files).to_json(), encoding="utf-8")
