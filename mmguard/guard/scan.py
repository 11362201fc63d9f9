"""Judge a folder of images, or a file of arrays, row by row; and say whether so many flags are chance."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.detection.rates import most_by_chance
from mmguard.errors import InferenceError, InputError
from mmguard.files.listing import Entry, list_files, shown
from mmguard.guard.guard import Guard
from mmguard.inputs.checks import check_form
from mmguard.inputs.images import read_images
from mmguard.inputs.reading import is_array, match_columns, name_faults, read_array
from mmguard.inputs.spec import InputSpec
from mmguard.types import ABSTAIN, Decision, Reason

BATCH = 64

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One thing to judge, or to say why not.

    Attributes:
        name: of its row. x: the input, without a batch axis, or None. error: why there is none.
        skipped: why there need not be one. more_frames: whether x is the first of several frames.
    """

    name: str
    x: npt.NDArray[Any] | None = None
    error: InputError | None = None
    skipped: str = ""
    more_frames: bool = False


@dataclass(frozen=True)
class Summary:
    """Counts of a scan.

    Attributes:
        inputs, flagged, corrected: numbers of files or rows that were tested, or answered by a bundle without a test.
        unreadable, untested: numbers of files or rows that could not be read, or that the networks could not judge.
        skipped: files that were passed over. first_frames: inputs that are the first of several frames.
        reasons: flags by reason.
        improbable: inputs whose p-value is at most θ, flagged or not.
        limit: most of these that clean inputs would give, except with a probability of 0.1 %. The null was fitted on n
            samples, so its level is taken to be as uncertain as a share seen in n samples. None without a test.
    """

    inputs: int
    flagged: int
    corrected: int
    unreadable: int
    untested: int
    skipped: tuple[str, ...]
    first_frames: int
    reasons: dict[str, int]
    improbable: int
    limit: int | None

    @property
    def alarming(self) -> bool:
        """Whether more inputs are improbable than clean ones would be."""
        return self.limit is not None and self.improbable > self.limit


def scan(guard: Guard, inputs: Path, skip_bad: bool = False) -> Iterator[Row]:
    """Judge every input, in batches, each input once.

    Args:
        guard: the guard; its policy labels. With `on_error="closed"` an input that its networks cannot judge does not
            end the scan of its batch.
        inputs: a folder, of which every file is an input, whatever its name; one image; an `.npy` or `.npz` with `x`;
            or a `.csv`, whose columns are matched by name where the bundle has names.
        skip_bad: go on where an input cannot be read or judged, instead of raising.

    Yields:
        One row a file or array row, in order: `input` (row number, or path relative to the folder, in which bytes that
        are no UTF-8 are written out), `label`, `class` (null where the policy abstains), `original_label`,
        `clipped_label`, `flagged`, `corrected`, `reason`, `p_value`, `margin_gap` (both null where there is no test),
        and `first_frame`, true, where the file has more of them. A row of what cannot be read has `input` and `error`;
        one of what is passed over, such as a file of the operating system, `input` and `skipped`.

    Raises:
        InputError: nothing to scan, inputs that the model does not take, or one that cannot be read.
        InferenceError: the networks cannot judge an input.
    """
    spec = guard.bundle.manifest.input
    items = _array_items(inputs, spec, skip_bad) if _is_array_file(inputs) else _image_items(inputs, spec)
    for batch in _batches(items):
        yield from _rows(guard, batch, skip_bad)


def _is_array_file(inputs: Path) -> bool:
    return is_array(inputs) and not inputs.is_dir()


def _array_items(path: Path, spec: InputSpec, skip_bad: bool) -> Iterator[Item]:
    inputs = match_columns(path, read_array(path, spec.dtype), spec)
    check_form(inputs.x, spec)  # as a whole, so that an error shows the file's own shape
    if inputs.faults and not skip_bad:
        raise InputError(f"{name_faults(path, inputs.faults)}; pass --skip-bad to go on without such rows")
    for i, x in enumerate(inputs.x):
        fault = inputs.faults.get(i)
        yield Item(str(i), x) if fault is None else Item(str(i), error=InputError(f"row {i} {fault}"))


def _image_items(inputs: Path, spec: InputSpec) -> Iterator[Item]:
    folder = inputs.is_dir()
    entries = list_files(inputs, hidden=True) if folder else [Entry(inputs)]
    if not entries or not (folder or os.path.lexists(inputs)):
        what = "an empty folder" if folder else "no such file or folder"
        raise InputError(f"{shown(inputs)}: {what}, so nothing to scan; expected images, an .npy, an .npz or a .csv")
    root = inputs if folder else inputs.parent
    for picture in read_images(entries, spec):
        name = _utf8(picture.path.relative_to(root).as_posix())
        yield Item(name, picture.x, picture.error, picture.passed_over, picture.more_frames)


def _utf8(name: str) -> str:
    """A file's name as UTF-8 can have it."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in order, as many at once as the networks take at once: inputs of one batch are of one shape."""
    batch: list[Item] = []
    shape: tuple[int, ...] | None = None
    for item in items:
        if len(batch) == BATCH or (item.x is not None and shape not in (None, item.x.shape)):
            yield batch
            batch, shape = [], None
        batch.append(item)
        shape = shape if item.x is None else item.x.shape
    if batch:
        yield batch


def _rows(guard: Guard, batch: list[Item], skip_bad: bool) -> Iterator[Row]:
    judged = _judged(guard, batch)
    for item in batch:
        if item.error is not None:
            if not skip_bad:
                raise type(item.error)(f"{item.error}; pass --skip-bad to go on without such files") from item.error
            yield {"input": item.name, "error": str(item.error)}
        elif item.x is None:
            yield {"input": item.name, "skipped": item.skipped}
        else:
            row = next(judged)
            if row["reason"] == Reason.UNTESTED and not skip_bad:
                raise InferenceError(
                    f"input {item.name}: the networks gave no answer that could be tested; pass --skip-bad to go on"
                )
            yield row


def _judged(guard: Guard, batch: list[Item]) -> Iterator[Row]:
    """The rows of those items that are inputs."""
    good = [item for item in batch if item.x is not None]
    if not good:
        return
    try:
        decision = guard(np.stack([item.x for item in good if item.x is not None]))
    except InferenceError as error:
        raise InferenceError(f"{good[0].name} to {good[-1].name}: {error}") from error
    for i, item in enumerate(good):
        row = _row(guard.bundle.manifest.classes, decision, i, item.name)
        yield row | {"first_frame": True} if item.more_frames else row


def summarise(guard: Guard, rows: list[Row]) -> Summary:
    """Count rows, and compare their p-values with what the level of the test allows clean inputs.

    Raises:
        InputError: there is no row that was judged.
    """
    null = guard.bundle.manifest.null
    answered = [row for row in rows if "reason" in row]
    judged = [row for row in answered if row["reason"] != Reason.UNTESTED]
    if not judged:
        raise InputError("nothing was judged: there is no input, or none could be read and tested")
    reasons = [row["reason"] for row in judged if row["flagged"]]
    return Summary(
        inputs=len(judged),
        flagged=len(reasons),
        corrected=sum(row["corrected"] for row in judged),
        unreadable=sum("error" in row for row in rows),
        untested=len(answered) - len(judged),
        skipped=tuple(row["input"] for row in rows if "skipped" in row),
        first_frames=sum("first_frame" in row for row in judged),
        reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        improbable=sum(row["p_value"] is not None and row["p_value"] <= null.theta for row in judged) if null else 0,
        limit=most_by_chance(len(judged), null.theta, null.n) if null else None,
    )


def _row(classes: tuple[str, ...], decision: Decision, i: int, name: str) -> Row:
    label = int(decision.labels[i])
    return {
        "input": name,
        "label": label,
        "class": None if label == ABSTAIN else classes[label],
        "original_label": int(decision.original_labels[i]),
        "clipped_label": int(decision.clipped_labels[i]),
        "flagged": bool(decision.flagged[i]),
        "corrected": bool(decision.corrected[i]),
        "reason": str(decision.reasons[i]),
        "p_value": _number(decision.p_values[i]),
        "margin_gap": _number(decision.margin_gaps[i]),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
