"""What lies in a bundle's folder: the files that its manifest lists, as it lists them, and nothing else."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mmguard.bundle.tensors import Shapes, read_shapes
from mmguard.errors import SchemaError, TamperedBundleError
from mmguard.inputs.checks import shape_fits

if TYPE_CHECKING:
    from mmguard.bundle.manifest import FileEntry, Manifest

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
BOUNDS = "bounds.safetensors"
PROBES = "probes.safetensors"
REPORT = "report.html"

UNLISTED = (MANIFEST, PROVENANCE)
"""The two files that the manifest does not list."""
NAMED = 5
"""Files that a message names."""

Children = Mapping[str, set[str]]
"""Names of what lies directly in a folder, by its relative path."""


def check_contents(folder: Path, manifest: "Manifest") -> None:
    """Refuse a folder whose files are not those that the manifest lists, or whose tensors are not those of its sites.

    A network may keep weights in any file of its folder, so one that is not listed could be a part of it.

    Raises:
        TamperedBundleError: a file is missing, has another size or hash, is a link, or is not listed; or the bounds or
            probes are not of the manifest's shapes.
        SchemaError: there are as many logits as the manifest does not name classes.
    """
    children = _children((*manifest.files, *UNLISTED))
    try:
        _refuse_links(folder, children)
        if (folder / PROVENANCE).exists() and not (folder / PROVENANCE).is_file():
            raise TamperedBundleError(f"{folder}: {PROVENANCE} is not a file; copy the whole bundle folder again")
        for name, entry in manifest.files.items():
            _check_size(folder, name, entry)
        if unlisted := list(islice(_unlisted(folder, children), NAMED)):
            raise TamperedBundleError(
                f"{folder} holds what its manifest does not list: {', '.join(map(repr, unlisted))}; remove that, or "
                "copy the whole bundle folder again"
            )
        for name, entry in manifest.files.items():
            _check_hash(folder, name, entry)
    except OSError as error:
        raise TamperedBundleError(f"{folder} cannot be read: {error}") from error
    _check_bounds(folder / BOUNDS, read_shapes(folder / BOUNDS), manifest)
    _check_probes(folder / PROBES, read_shapes(folder / PROBES), manifest)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _children(names: Iterable[str]) -> Children:
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        path = PurePosixPath(name)
        for part, parent in zip((path, *path.parents), path.parents, strict=False):
            found[parent.as_posix()].add(part.name)
    return found


def _refuse_links(folder: Path, children: Children) -> None:
    """What a link points to was not copied or pinned with the folder."""
    for parent, names in children.items():
        for name in names:
            if (folder / parent / name).is_symlink():
                raise TamperedBundleError(
                    f"{folder}: {(PurePosixPath(parent) / name).as_posix()} is a link; replace it with what it "
                    "points to (`cp -rL` does so for a whole folder)"
                )


def _unlisted(folder: Path, children: Children) -> Iterator[str]:
    """Relative paths of what is not listed; of a folder that holds nothing listed, its own alone."""
    for parent, names in children.items():
        with os.scandir(folder / parent) as entries:
            yield from ((PurePosixPath(parent) / entry.name).as_posix() for entry in entries if entry.name not in names)


def _check_size(folder: Path, name: str, entry: "FileEntry") -> None:
    path = folder / name
    if not path.is_file():
        raise TamperedBundleError(f"{folder}: {name} is missing; copy the whole bundle folder again")
    size = path.stat().st_size
    if size != entry.size:
        raise TamperedBundleError(f"{folder}: {name} has {size} bytes, the manifest says {entry.size}; do not use it")


def _check_hash(folder: Path, name: str, entry: "FileEntry") -> None:
    if sha256(folder / name) != entry.sha256:
        raise TamperedBundleError(f"{folder}: {name} does not have the hash that the manifest gives; do not use it")


def _check_bounds(path: Path, found: Shapes, manifest: "Manifest") -> None:
    """One number a channel, all on one axis."""
    channels = {site.value: site.channels for site in manifest.sites}
    if set(found) != set(channels):
        raise TamperedBundleError(f"{path} does not hold one tensor for each of the manifest's sites")
    for name, shape in found.items():
        if not shape or sorted(shape) != [1] * (len(shape) - 1) + [channels[name]]:
            raise TamperedBundleError(
                f"{path}: {name!r} of shape {shape} is not one number for each of {channels[name]} channels"
            )


def _check_probes(path: Path, found: Shapes, manifest: "Manifest") -> None:
    """Inputs that the model takes, and a row of logits for each."""
    spec, classes = manifest.input, len(manifest.classes)
    if set(found) != {"x", "original", "clipped"}:
        raise TamperedBundleError(f"{path} does not hold x, original and clipped alone")
    x = found["x"]
    if not shape_fits(x, (None, *spec.shape[1:])) or 0 in x:
        raise TamperedBundleError(f"{path}: x of shape {x} is not of the input's shape {spec.shape}")
    for form in ("original", "clipped"):
        if len(found[form]) != 2 or found[form][0] != x[0]:
            raise TamperedBundleError(f"{path}: {form} of shape {found[form]} is not a row of logits for each of x")
        if (logits := found[form][1]) != classes:
            raise SchemaError(f"{path.parent / MANIFEST} names {classes} classes, the model has {logits} logits")
