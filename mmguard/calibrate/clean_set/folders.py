"""Clean images in folders: one a class, or one of all."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.errors import CleanSetError, InputError, UnreadableImageError
from mmguard.files.listing import list_files, shown
from mmguard.inputs.images import Picture, read_images
from mmguard.inputs.spec import InputSpec
from mmguard.text.format import some
from mmguard.types import IntArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassFolders:
    """The images of a folder.

    Attributes:
        x: (N, ...) float32, the model's own input.
        y: (N,) int64, index into `classes`; None of a flat folder.
        classes: names of the class folders, sorted; none of a flat folder.
        skipped: errors of the images that were left out.
    """

    x: npt.NDArray[np.float32]
    y: IntArray | None
    classes: tuple[str, ...]
    skipped: tuple[UnreadableImageError, ...]


def read_folder(path: Path, spec: InputSpec, skip_bad: bool) -> ClassFolders:
    """Read every file below a folder as an image, but hidden ones and those of the operating system.

    Args:
        path: a folder per class, with images at any depth, or a folder of images.
        spec: the model's input, with the preprocessing.
        skip_bad: leave out images that cannot be decoded.

    Raises:
        CleanSetError: no image, an empty class folder, images beside class folders, or images of several sizes.
        InputError: an image is not of the model's size.
        UnreadableImageError: an image cannot be decoded and `skip_bad` is off.
    """
    entries = list_files(path, hidden=False)
    files = [entry for entry in entries if not entry.passed_over]
    if not files:
        raise CleanSetError(f"{path}: no images in it; expected one folder per class, or images directly")
    folders = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    _check_folders(path, folders, [entry.path for entry in files])
    files.sort(key=lambda entry: entry.path.parent != path)  # what may be out of place is found first
    good, bad = [], []
    passed_over = [entry.path for entry in entries if entry.passed_over]
    for picture in read_images(files, spec):
        if picture.passed_over:
            passed_over.append(picture.path)
        elif picture.error is None:
            _check_place(path, folders, picture)
            good.append(picture)
        else:
            bad.append((picture.path, _may_skip(picture.error, skip_bad)))
    _say("passes over", path, passed_over)
    _say("leaves out what cannot be decoded:", path, [each for each, _ in bad])
    skipped = tuple(error for _, error in bad)
    if not good:
        raise CleanSetError(f"{path}: none of its files could be decoded as an image: {(*skipped, 'no image')[0]}")
    _check_folders(path, folders, [picture.path for picture in good])
    y = np.array([folders.index(_group(path, picture.path)) for picture in good], dtype=np.int64) if folders else None
    return ClassFolders(_stacked(good), y, tuple(folders), skipped)


def _say(what: str, folder: Path, paths: Sequence[Path]) -> None:
    if paths:
        logger.info("%s %s", what, some([shown(path.relative_to(folder)) for path in paths]))


def _group(path: Path, image: Path) -> str:
    return image.relative_to(path).parts[0]


def _check_folders(path: Path, folders: Sequence[str], images: Sequence[Path]) -> None:
    """Refuse a class folder without an image, since what it is for cannot be told."""
    if empty := sorted(set(folders) - {_group(path, image) for image in images}):
        raise CleanSetError(f"{path}: no images in class folder {some(empty)}; add some or remove the folder")


def _check_place(path: Path, folders: Sequence[str], picture: Picture) -> None:
    """Refuse an image beside class folders."""
    if folders and picture.path.parent == path:
        name = shown(picture.path.relative_to(path))
        raise CleanSetError(f"{path} has both class folders ({folders[0]}, ...) and images ({name}, ...)")


def _may_skip(error: InputError, skip_bad: bool) -> UnreadableImageError:
    """The error of a file that is left out; any other is raised."""
    if not isinstance(error, UnreadableImageError):
        raise error
    if not skip_bad:
        raise UnreadableImageError(f"{error}; mend or remove it, or pass --skip-bad to leave such files out") from error
    return error


def _stacked(pictures: Sequence[Picture]) -> npt.NDArray[np.float32]:
    """The inputs of all pictures (N, ...)."""
    inputs = [picture.x for picture in pictures if picture.x is not None]
    for picture, x in zip(pictures, inputs, strict=True):
        if x.shape != inputs[0].shape:
            raise CleanSetError(
                f"the images are of several sizes: {shown(picture.path)} gives an input of shape {x.shape}, "
                f"{shown(pictures[0].path)} one of {inputs[0].shape}; resize all with one --size HEIGHTxWIDTH, or cut "
                "them out with --crop"
            )
    return np.stack(inputs).astype(np.float32, copy=False)
