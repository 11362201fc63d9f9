"""Writing a guard bundle: aside first, then in place."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.contents import BOUNDS, MANIFEST, PROVENANCE, sha256
from mmguard.bundle.manifest import FileEntry, Manifest
from mmguard.errors import BundleError, UnwrittenBundleError
from mmguard.files.atomic import NEW, OLD, beside, put_in_place, sweep

MAX_NAME_BYTES = 200
"""File systems take 255, and hidden names beside the bundle's are up to 30 longer."""


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
