"""Assign the labels of the calibration set to the model's outputs, and check the labels for mistakes."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmguard.bundle.manifest import class_name
from mmguard.calibrate.clean_set.read import CleanSet
from mmguard.errors import CleanSetError
from mmguard.settings.settings import Objective
from mmguard.text.format import first_few
from mmguard.types import IntArray

logger = logging.getLogger(__name__)

PREPROCESSING_OPTIONS = "--preprocess, --mean, --std, --scale, --layout, --size, --crop"


def assign_classes(clean: CleanSet, outputs: int, names: Sequence[str] | None) -> tuple[IntArray | None, list[str]]:
    """Map the labels of the calibration set to the model's outputs.

    Named classes are mapped by their positions in `names` if the user provided `names`. Otherwise, class names that are
    all numbers are mapped to the outputs with these numbers, and any other class names are mapped in sorted order.

    Args:
        clean: the calibration set.
        outputs: number of the model's outputs, K, which is the number of classes.
        names: class names in the order of the outputs; None if the user provided no names.

    Returns:
        Labels (N,) int64, or None if there are no labels, and the K class names.

    Raises:
        CleanSetError: the names or the labels do not match the outputs.
    """
    _check_names(clean, outputs, names)
    found = clean.named
    if clean.y is None or not found:
        if clean.y is not None and not (clean.y.min() >= 0 and clean.y.max() < outputs):
            raise CleanSetError(
                f"expected labels from 0 to {outputs - 1}, because the model has {outputs} outputs, got labels from "
                f"{clean.y.min()} to {clean.y.max()}; label each input with the number of the model output for "
                "its class"
            )
        return clean.y, list(names or map(str, range(outputs)))
    if names is None and all(name.isdecimal() for name in found):
        order, names = [int(name) for name in found], [str(index) for index in range(outputs)]
        if max(order) >= outputs:
            raise CleanSetError(
                f"class {max(order)} has no output: the model has outputs 0 to {outputs - 1}, and mmguard treats class "
                "names as output numbers if all of them are numbers; if these names are not output numbers, provide "
                "all class names with --classes FILE, one name per line, in the order of the outputs"
            )
    elif names is None:
        if len(found) != outputs:
            raise CleanSetError(
                f"the calibration set has {len(found)} classes, but the model has {outputs} outputs, so mmguard cannot "
                "tell which output belongs to which class; provide all class names with --classes FILE, one name per "
                "line, in the order of the outputs"
            )
        order, names = list(range(outputs)), list(found)
    else:
        if unknown := sorted(set(found) - set(names)):
            raise CleanSetError(
                f"--classes does not list these classes of the calibration set: {first_few(unknown)}; correct the "
                "list, or remove the inputs of these classes"
            )
        order = [names.index(name) for name in found]
    return np.array(order, dtype=np.int64)[clean.y], list(names)


def _check_names(clean: CleanSet, outputs: int, names: Sequence[str] | None) -> None:
    """Check that there is one class name per output, and that a bundle can store every name."""
    if names is not None and (len(names) != outputs or len(set(names)) != outputs):
        raise CleanSetError(
            f"expected {outputs} different class names in --classes, one per output of the model, got "
            f"{len(set(names))}; provide one name per line, in the order of the outputs"
        )
    for name in (*(names or ()), *clean.named):
        try:
            class_name(name)
        except ValueError as error:
            raise CleanSetError(f"mmguard cannot use the class name {name!r}: {error}; rename the class") from error


def check_accuracy(logits: npt.NDArray[np.float32], labels: IntArray, *, named: bool) -> None:
    """Check that the model predicts the labels better than chance.

    Args:
        logits: (N, K) logits of the original network on the calibration set.
        labels: (N,) int64, labels of the calibration set.
        named: whether the classes were mapped to outputs by name.

    Raises:
        CleanSetError: the accuracy is at most three standard deviations above 1/K, the accuracy of random guessing.
    """
    chance = 1 / logits.shape[1]
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    spread = 3 * (chance * (1 - chance) / len(labels)) ** 0.5
    if accuracy > chance + spread or chance + spread >= 1:
        return
    fix = "pass --classes FILE, with the class names in that order" if named else "number the labels in that order"
    order = f"the classes are not in the order of the model's outputs ({fix})"
    if accuracy < chance - spread:
        cause = f"far below chance ({chance:.1%}); most likely, {order}"
    else:
        cause = (
            f"near chance ({chance:.1%}); most likely, {order}, or the inputs are not preprocessed as the model "
            f"expects (for images, check {PREPROCESSING_OPTIONS})"
        )
    raise CleanSetError(f"the model classifies only {accuracy:.1%} of the calibration set correctly, which is {cause}")


def check_classes(decided: IntArray, names: Sequence[str], objective: Objective, *, labelled: bool) -> None:
    """Warn about classes without inputs in the calibration set.

    Args:
        decided: (N,) int64, labels of the calibration set; if there are no labels, the original network's decisions.
        names: names of all K classes, in the order of the outputs.
        objective: objective of the calibration.
        labelled: whether the calibration set has labels.

    Raises:
        CleanSetError: a class has no input, and the objective is MMOM, which would unlearn the class.
    """
    missing = [name for name, count in zip(names, np.bincount(decided, minlength=len(names)), strict=True) if not count]
    if not missing:
        return
    of_class = "of class" if labelled else "that the model assigns to class"
    found = f"the calibration set has no input {of_class} {first_few(missing)}"
    if objective == "mmom":
        raise CleanSetError(f"{found}; MMOM unlearns classes without inputs, so provide some inputs of every class")
    if not labelled:
        found += " (check that inputs are preprocessed as the model expects)"
    logger.warning(
        "warning: %s; how clipping affects inputs of a missing class is unknown, and the guard may flag them more "
        "often than other inputs; add inputs of each missing class to the calibration set",
        found,
    )
