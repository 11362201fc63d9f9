"""The clean set D: a folder per class, a flat folder, an `.npz` with `x` and perhaps `y`, an `.npy`, or a `.csv`."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.bundle.manifest import class_name
from mmguard.calibrate.clean_set.folders import read_folder
from mmguard.errors import CleanSetError, InputError
from mmguard.inputs.checks import shape_fits
from mmguard.inputs.reading import is_array, name_faults, read_array
from mmguard.inputs.spec import InputSpec
from mmguard.settings.settings import Objective
from mmguard.text.format import some
from mmguard.types import IntArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleanSet:
    """Inputs that are known to be clean.

    Attributes:
        x: (N, ...) float32, the model's own input; of a model that takes another dtype, the values that this has too.
        y: (N,) int64, index into `named`, or the class itself where that is empty; None where unlabelled.
        named: the classes by the names of their folders or in `y`, sorted; empty where there are none.
        skipped: errors of the images or rows that were left out.
        columns: names of a table's features, in order; None of anything else.
    """

    x: npt.NDArray[np.float32]
    y: IntArray | None
    named: tuple[str, ...] = ()
    skipped: tuple[InputError, ...] = ()
    columns: tuple[str, ...] | None = None


def read_clean(path: Path, spec: InputSpec, skip_bad: bool = False) -> CleanSet:
    """Read D.

    Args:
        path: folder, `.npz`, `.npy` or `.csv`.
        spec: the model's input; for a folder it holds the preprocessing.
        skip_bad: leave out images that cannot be decoded, and rows of arrays that cannot be inputs.

    Raises:
        CleanSetError: nothing there, an empty class folder, a shape that is not the model's, or a row that cannot be an
            input where `skip_bad` is off.
        InputError: a file or its numbers cannot be read, or an image is not of the model's size.
        UnreadableImageError: an image cannot be decoded and `skip_bad` is off.
    """
    if path.is_dir():
        folder = read_folder(path, spec, skip_bad)
        return CleanSet(folder.x, folder.y, folder.classes, folder.skipped)
    if not path.exists():
        raise CleanSetError(f"{path}: no such folder or file of clean inputs")
    if not is_array(path):
        raise CleanSetError(f"{path}: expected a folder of images, an .npz, an .npy or a .csv of clean inputs")
    inputs = read_array(path, spec.dtype)
    want = spec.shape[1:]
    more = inputs.columns and want and isinstance(want[0], int) and len(inputs.columns) == want[0] + 1
    hint = "; a column of labels must be called label" if more else ""
    if inputs.x.ndim == 2 and None not in want and inputs.x.shape[1] == math.prod(size or 0 for size in want):
        hint = f"; these are as many numbers: save them as .npz with x.reshape(-1, {', '.join(map(str, want))})"
    if not len(inputs.x) or not shape_fits(inputs.x.shape[1:], want):
        came = f"x has shape {inputs.x.shape}, the model takes (N, {', '.join(map(str, want))})"
        raise CleanSetError(f"{path}: {came}{hint}")
    if inputs.faults and not skip_bad:
        raise CleanSetError(
            f"{name_faults(path, inputs.faults)}; mend or remove such rows, or pass --skip-bad to leave them out"
        )
    kept = np.setdiff1d(np.arange(len(inputs.x)), list(inputs.faults))
    if not len(kept):
        raise CleanSetError(f"{name_faults(path, inputs.faults)}, so no row is left")
    if inputs.faults:
        logger.info("leaves out %d rows: %s", len(inputs.faults), name_faults(path, inputs.faults))
    y, named = _named(path, None if inputs.y is None else inputs.y[kept], kept)
    skipped = tuple(InputError(f"row {row} {fault}") for row, fault in sorted(inputs.faults.items()))
    x = inputs.x[kept] if skipped else inputs.x
    return CleanSet(x.astype(np.float32, copy=False), y, named, skipped, inputs.columns)


def _named(
    path: Path, labels: IntArray | npt.NDArray[np.str_] | None, rows: npt.NDArray[np.intp]
) -> tuple[IntArray | None, tuple[str, ...]]:
    """Labels as numbers, and where they were words, the classes that these numbers stand for."""
    if labels is None or labels.dtype.kind != "U":
        return labels, ()  # type: ignore[return-value]
    if "" in labels:
        raise CleanSetError(f"{path}: row {rows[labels == ''][0]} has no label; give every row one, or none at all")
    names, index = np.unique(labels, return_inverse=True)
    return index.astype(np.int64), tuple(map(str, names))


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
                f"labels run from {clean.y.min()} to {clean.y.max()}, the model has outputs 0 to {outputs - 1}; "
                "number each label by its output"
            )
        return clean.y, list(names or map(str, range(outputs)))
    if names is None and all(name.isdecimal() for name in found):
        order, names = [int(name) for name in found], [str(index) for index in range(outputs)]
        if max(order) >= outputs:
            raise CleanSetError(
                f"class {max(order)} has no output: the model has 0 to {outputs - 1}, and classes that are numbers are "
                "taken for these; where they are names, give --classes FILE with one name a line, in the order of the "
                "outputs"
            )
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
            raise CleanSetError(f"classes {some(unknown)} of the clean set are not in --classes")
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
    named = f"no clean input of class {some(missing)}"
    if objective == "mmom":
        raise CleanSetError(f"{named}: MMOM would unlearn what it has no input of; give some of every class")
    if not labelled:
        named += " by the model's own decisions (are the inputs prepared as it was trained?)"
    logger.warning("warning: %s: how clipping treats such inputs is unknown, and more of them may be flagged", named)
