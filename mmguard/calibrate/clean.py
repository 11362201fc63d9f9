"""The clean set D: a folder per class, a flat folder, an `.npz` with `x` and perhaps `y`, an `.npy`, or a `.csv`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.calibrate.settings import Objective
from mmguard.errors import CleanSetError, UnreadableImageError
from mmguard.images import find_images, image_batches
from mmguard.inputs import ARRAY_SUFFIXES, read_array, shape_fits
from mmguard.manifest import class_name
from mmguard.types import InputSpec, IntArray

logger = logging.getLogger(__name__)

NAMED = 5
"""Missing classes that a message names."""


@dataclass(frozen=True)
class CleanSet:
    """Inputs that are known to be clean.

    Attributes:
        x: (N, ...) float32, the model's own input; of a model that takes another dtype, the values that this has too.
        y: (N,) int64, index into `named`, or the class itself where that is empty; None where unlabelled.
        named: the classes by the names of their folders or in `y`, sorted; empty where there are none.
        skipped: errors of the images that were passed over.
    """

    x: npt.NDArray[np.float32]
    y: IntArray | None
    named: tuple[str, ...] = ()
    skipped: tuple[UnreadableImageError, ...] = ()


def read_clean(path: Path, spec: InputSpec, skip_bad: bool = False) -> CleanSet:
    """Read D.

    Args:
        path: folder, `.npz`, `.npy` or `.csv`.
        spec: the model's input; for a folder it holds the preprocessing.
        skip_bad: pass over images that cannot be decoded.

    Raises:
        CleanSetError: nothing there, an empty class folder, or a shape that is not the model's.
        UnreadableImageError: an image cannot be decoded and `skip_bad` is off.
    """
    if path.is_dir():
        return _read_folder(path, spec, skip_bad)
    if not path.exists():
        raise CleanSetError(f"{path}: no such folder or file of clean inputs")
    if path.suffix not in ARRAY_SUFFIXES:
        raise CleanSetError(f"{path}: expected a folder of images, an .npz, an .npy or a .csv of clean inputs")
    x, y = read_array(path, spec.dtype)
    want = spec.shape[1:]
    more = path.suffix == ".csv" and want and isinstance(want[0], int) and x.shape[1] == want[0] + 1
    hint = "; a last column of labels must be called label" if more else ""
    if not len(x) or not shape_fits(x.shape[1:], want):
        raise CleanSetError(f"{path}: x has shape {x.shape}, the model takes (N, {', '.join(map(str, want))})" + hint)
    x = x.astype(np.float32, copy=False)
    if y is None or np.issubdtype(y.dtype, np.integer):
        return CleanSet(x, None if y is None else y.astype(np.int64))
    names, index = np.unique(y, return_inverse=True)
    return CleanSet(x, index.astype(np.int64), tuple(map(str, names)))


def assign_classes(clean: CleanSet, outputs: int, names: Sequence[str] | None) -> tuple[IntArray | None, list[str]]:
    """Map D's labels to the model's outputs.

    Named classes go by `names` where given, else by number where all are numbers, else by name in sorted order.

    Args:
        outputs: K, the model's number of classes.
        names: class names in the order of the outputs.

    Returns:
        Labels (N,) int64 or None, and K class names.

    Raises:
        CleanSetError: names or classes that do not fit the outputs.
    """
    if names is not None and (len(names) != outputs or len(set(names)) != outputs):
        raise CleanSetError(f"--classes must name the model's {outputs} outputs once each, it has {len(set(names))}")
    for name in (*(names or ()), *clean.named):
        try:
            class_name(name)
        except ValueError as error:
            raise CleanSetError(f"the class name {name!r} cannot be used: {error}; rename it") from error
    found = clean.named
    if clean.y is None or not found:
        if clean.y is not None and not (clean.y.min() >= 0 and clean.y.max() < outputs):
            raise CleanSetError(
                f"labels run from {clean.y.min()} to {clean.y.max()}, the model has outputs 0 to {outputs - 1}"
            )
        return clean.y, list(names or map(str, range(outputs)))
    if names is None and all(name.isdecimal() for name in found):
        order, names = [int(name) for name in found], [str(index) for index in range(outputs)]
        if max(order) >= outputs:
            raise CleanSetError(f"class {max(order)} has no output: the model has 0 to {outputs - 1}")
    elif names is None:
        if len(found) != outputs:
            raise CleanSetError(
                f"{len(found)} named classes, but the model has {outputs} outputs, so their order is unknown; "
                "give --classes FILE with one class name a line, in the order of the outputs"
            )
        order, names = list(range(outputs)), list(found)
    else:
        unknown = sorted(set(found) - set(names))
        if unknown:
            raise CleanSetError(f"classes {unknown} of the clean set are not in --classes")
        order = [names.index(name) for name in found]
    return np.array(order, dtype=np.int64)[clean.y], list(names)


def check_accuracy(logits: npt.NDArray[np.float32], labels: IntArray, *, named: bool) -> None:
    """Refuse labels that the model does no better on than chance.

    Args:
        logits: (N, K) of the original network. labels: (N,) int64. named: whether the classes came by their names.

    Raises:
        CleanSetError: accuracy at most three standard deviations above 1/K.
    """
    chance = 1 / logits.shape[1]
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    spread = 3 * (chance * (1 - chance) / len(labels)) ** 0.5
    if accuracy > chance + spread or chance + spread >= 1:
        return
    order = "classes in another order than the model's outputs" + (" (--classes FILE)" if named else "")
    if accuracy < chance - spread:
        said = f"far below chance ({chance:.1%}): the likely cause is {order}"
    else:
        said = (
            f"near chance ({chance:.1%}); likely causes: {order}, or inputs that are not prepared as the model takes "
            "them (of images: --preprocess, --mean, --std, --scale, --layout, --size, --crop)"
        )
    raise CleanSetError(f"the model is right on {accuracy:.1%} of the clean inputs, {said}")


def check_classes(decided: IntArray, names: Sequence[str], objective: Objective, *, labelled: bool) -> None:
    """Say which classes D says nothing of.

    Args:
        decided: (N,) int64, labels of D, or the original's decisions where it has none.
        names: of all K classes.
        objective: what is learned. labelled: whether D is.

    Raises:
        CleanSetError: MMOM, which would unlearn a class that is not in D.
    """
    missing = [name for name, count in zip(names, np.bincount(decided, minlength=len(names)), strict=True) if not count]
    if not missing:
        return
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    named = f"no clean input of class {', '.join(missing[:NAMED])}{more}"
    if objective == "mmom":
        raise CleanSetError(f"{named}: MMOM would unlearn what it has no input of; give some of every class")
    if not labelled:
        named += " by the model's own decisions (are the inputs prepared as it was trained?)"
    logger.warning("warning: %s: how clipping treats such inputs is unknown, and more of them may be flagged", named)


def _read_folder(path: Path, spec: InputSpec, skip_bad: bool) -> CleanSet:
    images = find_images(path)
    if not images:
        raise CleanSetError(f"{path}: no images in it; expected one folder per class, or images directly")
    folders = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    top_level = [image for image in images if image.parent == path]
    if folders and top_level:
        raise CleanSetError(f"{path} has both class folders ({folders[0]}, ...) and images ({top_level[0].name}, ...)")
    groups = {image: image.relative_to(path).parts[0] for image in images}
    empty = sorted(set(folders) - set(groups.values())) if folders else []
    if empty:
        raise CleanSetError(f"{path}: no images in class folder {', '.join(empty)}; add some or remove the folder")
    paths, x, skipped = _decode(images, spec, skip_bad)
    y = np.array([folders.index(groups[image]) for image in paths], dtype=np.int64) if folders else None
    return CleanSet(x, y, tuple(folders), skipped)


def _decode(
    images: Sequence[Path], spec: InputSpec, skip_bad: bool
) -> tuple[list[Path], npt.NDArray[np.float32], tuple[UnreadableImageError, ...]]:
    paths: list[Path] = []
    parts: list[npt.NDArray[np.float32]] = []
    skipped: list[UnreadableImageError] = []
    for good, x, errors in image_batches(images, spec, batch_size=256):
        if errors and not skip_bad:
            raise UnreadableImageError(f"{errors[0]}; mend or remove it, or pass --skip-bad to leave such files out")
        paths += good
        parts.append(x.astype(np.float32, copy=False))
        skipped += errors
    if not paths:
        raise CleanSetError("none of the images could be decoded")
    try:
        return paths, np.concatenate([part for part in parts if len(part)]), tuple(skipped)
    except ValueError as error:
        raise CleanSetError(f"the images are of several sizes; give one --size for all: {error}") from error
