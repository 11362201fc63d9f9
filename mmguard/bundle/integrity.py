"""Check that a bundle's folder contains exactly the files listed in its manifest, and that the files are unchanged."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mmguard.bundle.file_names import BOUNDS, MANIFEST, PROBES, PROVENANCE, UNLISTED
from mmguard.bundle.tensors import Shapes, read_shapes
from mmguard.errors import SchemaError, TamperedBundleError
from mmguard.inputs.batch_checks import shape_fits

if TYPE_CHECKING:
    from mmguard.bundle.manifest import FileEntry, Manifest

NAMED = 5
"""Largest number of files listed in an error message."""

Children = Mapping[str, set[str]]
"""Maps the relative path of a folder to the names of the files and folders directly in that folder."""


def check_contents(folder: Path, manifest: "Manifest") -> None:
    """Check that a folder contains exactly the files listed in the manifest, and that tensors have the right shapes.

    An ONNX file may load weights from any file in its folder, so a file that is not listed could be part of a network.

    Args:
        folder: the bundle's folder.
        manifest: the bundle's manifest.

    Raises:
        TamperedBundleError: A file is missing, does not match its size or hash, is a link or is not listed; or the
            shapes of the bounds or probes do not fit the manifest.
        SchemaError: The number of classes in the manifest differs from the number of logits of the model.
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
                f"{folder} contains files or folders that its manifest does not list: "
                f"{', '.join(map(repr, unlisted))}; remove them, or copy the whole bundle folder again"
            )
        for name, entry in manifest.files.items():
            _check_hash(folder, name, entry)
    except OSError as error:
        raise TamperedBundleError(f"{folder} cannot be read: {error}") from error
    _check_bounds(folder / BOUNDS, read_shapes(folder / BOUNDS), manifest)
    _check_probes(folder / PROBES, read_shapes(folder / PROBES), manifest)


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits in lower case.
    """
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
    """Refuse links, because the hashes of a bundle do not protect the targets of links."""
    for parent, names in children.items():
        for name in names:
            if (folder / parent / name).is_symlink():
                raise TamperedBundleError(
                    f"{folder}: {(PurePosixPath(parent) / name).as_posix()} is a link; replace the link with a "
                    "copy of its target (`cp -rL` does this for a whole folder)"
                )


def _unlisted(folder: Path, children: Children) -> Iterator[str]:
    """Yield the paths of files and folders that are not listed. The content of an unlisted folder is not searched."""
    for parent, names in children.items():
        with os.scandir(folder / parent) as entries:
            yield from ((PurePosixPath(parent) / entry.name).as_posix() for entry in entries if entry.name not in names)


def _check_size(folder: Path, name: str, entry: "FileEntry") -> None:
    path = folder / name
    if not path.is_file():
        raise TamperedBundleError(f"{folder}: {name} is missing; copy the whole bundle folder again")
    size = path.stat().st_size
    if size != entry.size:
        raise TamperedBundleError(
            f"{folder}: {name} has {size} bytes, but should have {entry.size} according to the manifest; do not use "
            "this bundle"
        )


def _check_hash(folder: Path, name: str, entry: "FileEntry") -> None:
    if sha256(folder / name) != entry.sha256:
        raise TamperedBundleError(f"{folder}: {name} does not match its hash in the manifest; do not use this bundle")


def _check_bounds(path: Path, found: Shapes, manifest: "Manifest") -> None:
    """Check that the bounds of each clip site consist of one number per channel, along a single axis."""
    channels = {site.value: site.channels for site in manifest.sites}
    if set(found) != set(channels):
        raise TamperedBundleError(
            f"{path}: expected exactly one tensor for each clip site in the manifest; do not use this bundle"
        )
    for name, shape in found.items():
        if not shape or sorted(shape) != [1] * (len(shape) - 1) + [channels[name]]:
            raise TamperedBundleError(
                f"{path}: expected {name!r} to contain one number for each of {channels[name]} channels, got shape "
                f"{shape}; do not use this bundle"
            )


def _check_probes(path: Path, found: Shapes, manifest: "Manifest") -> None:
    """Check that the probes are inputs of the model, and that both networks have one row of logits for each probe."""
    spec, classes = manifest.input, len(manifest.classes)
    rows = {"original": "logits", "clipped": "logits"} | ({"activations": "activations"} if manifest.evidence else {})
    if set(found) != {"x", *rows}:
        raise TamperedBundleError(f"{path}: expected the tensors {', '.join(['x', *rows])}; do not use this bundle")
    x = found["x"]
    if not shape_fits(x, (None, *spec.shape[1:])) or 0 in x:
        raise TamperedBundleError(
            f"{path}: expected the tensor x to contain inputs of shape {spec.shape[1:]}, got shape {x}; do not use "
            "this bundle"
        )
    for form, what in rows.items():
        if len(found[form]) != 2 or found[form][0] != x[0]:
            raise TamperedBundleError(
                f"{path}: expected the tensor {form} to contain {x[0]} rows of {what}, got shape {found[form]}; do not "
                "use this bundle"
            )
        if what == "activations":
            if found[form][1] != manifest.activation_columns:
                raise TamperedBundleError(
                    f"{path}: expected {manifest.activation_columns} columns of activations, got {found[form][1]}; do "
                    "not use this bundle"
                )
        elif (logits := found[form][1]) != classes:
            raise SchemaError(f"{path.parent / MANIFEST} lists {classes} classes, but the model has {logits} logits")
