"""Read clean images from one folder per class, or from a single folder without classes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.errors import CleanSetError, InputError, UnreadableImageError
from mmguard.files.listing import list_files
from mmguard.inputs.image_files import Picture, read_images
from mmguard.inputs.spec import InputSpec
from mmguard.text.format import first_few
from mmguard.text.sanitize import shown
from mmguard.types import IntArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassFolders:
    """The images of a folder.

    Attributes:
        x: (N, ...) float32, inputs in the form that the model takes.
        y: (N,) int64, indices into `classes`; None if there are no class folders.
        classes: sorted names of the class folders; empty if there are none.
        skipped: errors of the skipped images.
    """

    x: npt.NDArray[np.float32]
    y: IntArray | None
    classes: tuple[str, ...]
    skipped: tuple[UnreadableImageError, ...]


def read_folder(path: Path, spec: InputSpec, skip_bad: bool) -> ClassFolders:
    """Read every file in a folder and its subfolders as an image, except hidden files and operating-system files.

    Args:
        path: a folder that contains either one subfolder per class, with images at any depth, or only images.
        spec: description of the model's input, including the preprocessing.
        skip_bad: whether to skip images that cannot be decoded.

    Returns:
        The images.

    Raises:
        CleanSetError: there are no images, a class folder is empty, images lie next to class folders, or the images
            differ in size.
        InputError: an image does not have the size that the model takes.
        UnreadableImageError: mmguard cannot decode an image and `skip_bad` is off.
    """
    entries = list_files(path, hidden=False)
    files = [entry for entry in entries if not entry.passed_over]
    if not files:
        raise CleanSetError(
            f"{path}: no images in this folder; provide about 50 images per class, in one folder per class, or all "
            "in one folder if they have no labels"
        )
    folders = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    _check_folders(path, folders, [entry.path for entry in files])
    files.sort(key=lambda entry: entry.path.parent != path)  # images next to class folders come first
    good, bad = [], []
    ignored = [entry.path for entry in entries if entry.passed_over]
    for picture in read_images(files, spec):
        if picture.passed_over:
            ignored.append(picture.path)
        elif picture.error is None:
            _check_place(path, folders, picture)
            good.append(picture)
        else:
            bad.append((picture.path, _may_skip(picture.error, skip_bad)))
    _log("ignoring", path, ignored)
    _log("skipping files that cannot be decoded:", path, [each for each, _ in bad])
    skipped = tuple(error for _, error in bad)
    if not good:
        first = f" (first error: {skipped[0]})" if skipped else ""
        raise CleanSetError(f"{path}: no file in this folder can be decoded as an image{first}; provide image files")
    _check_folders(path, folders, [picture.path for picture in good])
    y = np.array([folders.index(_group(path, picture.path)) for picture in good], dtype=np.int64) if folders else None
    return ClassFolders(_stacked(good), y, tuple(folders), skipped)


def _log(what: str, folder: Path, paths: Sequence[Path]) -> None:
    if paths:
        logger.info("%s %s", what, first_few([shown(path.relative_to(folder)) for path in paths]))


def _group(path: Path, image: Path) -> str:
    return image.relative_to(path).parts[0]


def _check_folders(path: Path, folders: Sequence[str], images: Sequence[Path]) -> None:
    """Check that every class folder contains an image, because an empty folder may be a mistake."""
    if empty := sorted(set(folders) - {_group(path, image) for image in images}):
        raise CleanSetError(
            f"{path}: class folders without images: {first_few(empty)}; add images, or remove the empty folders"
        )


def _check_place(path: Path, folders: Sequence[str], picture: Picture) -> None:
    """Check that no image lies next to class folders."""
    if folders and picture.path.parent == path:
        name = shown(picture.path.relative_to(path))
        raise CleanSetError(
            f"{path}: expected either class folders or images, got both class folders ({folders[0]}, ...) and images "
            f"({name}, ...); move each image into the folder of its class"
        )


def _may_skip(error: InputError, skip_bad: bool) -> UnreadableImageError:
    """Return the error of a file that may be skipped; raise any other error."""
    if not isinstance(error, UnreadableImageError):
        raise error
    if not skip_bad:
        raise UnreadableImageError(f"{error}; fix or remove the file, or pass --skip-bad to skip such files") from error
    return error


def _stacked(pictures: Sequence[Picture]) -> npt.NDArray[np.float32]:
    """Return the inputs of all pictures as one array (N, ...)."""
    inputs = [picture.x for picture in pictures if picture.x is not None]
    for picture, x in zip(pictures, inputs, strict=True):
        if x.shape != inputs[0].shape:
            raise CleanSetError(
                f"expected images of the same size, but {shown(pictures[0].path)} becomes an input of shape "
                f"{inputs[0].shape}, whereas {shown(picture.path)} becomes an input of shape {x.shape}; resize all "
                "images with --size HEIGHTxWIDTH, or crop them with --crop HEIGHTxWIDTH"
            )
    return np.stack(inputs).astype(np.float32, copy=False)
