"""Judges every input in a folder or file, and checks whether chance explains the number of small p-values."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmguard.detection.rates import most_by_chance
from mmguard.errors import InferenceError, InputError
from mmguard.files.listing import Entry, list_files
from mmguard.inputs.array_files import is_array_file, read_array
from mmguard.inputs.batch_checks import check_dtype_and_shape
from mmguard.inputs.columns import match_columns
from mmguard.inputs.image_files import read_images
from mmguard.inputs.spec import InputSpec
from mmguard.text.sanitize import shown
from mmguard.types import ABSTAIN, Decision, Reason

if TYPE_CHECKING:
    from mmguard.guard.guard import Guard

BATCH = 64

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One file or array row of a scan. Contains the input, or the reason why there is no input.

    Attributes:
        name: the input's name in the results.
        x: the input, without a batch axis; None if there is an error or the file was skipped.
        error: why the input could not be read; None if there was no error.
        skipped: why the file was skipped; empty if it was not skipped.
        more_frames: whether the file has several frames; `x` is then the first frame.
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
        inputs: number of judged inputs. If the bundle has a test, these are the tested inputs; otherwise, they are the
            answered inputs.
        flagged: number of judged inputs that were flagged.
        corrected: number of judged inputs whose label was corrected.
        unreadable: number of inputs that could not be read.
        untested: number of inputs that the networks could not judge.
        skipped: names of files that were skipped.
        first_frames: number of judged inputs that are the first frame of a file with several frames.
        reasons: number of flagged inputs for each reason.
        improbable: number of judged inputs with a p-value of at most θ, including those that were not flagged.
        limit: the largest number of improbable inputs that can be attributed to chance: if all inputs were clean, at
            most 1 in 1,000 scans would have more. The limit allows for the uncertainty of the null, which was fitted to
            a limited number of clean inputs. None if the bundle has no test.
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
        """Whether there are more improbable inputs than `limit`."""
        return self.limit is not None and self.improbable > self.limit


def scan(guard: "Guard", inputs: Path, skip_bad: bool = False) -> Iterator[Row]:
    """Judge every input once, in batches.

    Args:
        guard: the guard that judges the inputs; its policy determines the labels. With `on_error="closed"`, the rest of
            a batch is still judged if the networks cannot judge one of its inputs.
        inputs: a folder, in which every file is treated as an input regardless of its name; an image; an `.npy` file;
            an `.npz` file with an array `x`; or a `.csv` file, whose columns are matched by name if the bundle was
            calibrated on a table.
        skip_bad: whether to continue after an input that cannot be read or judged, instead of raising an error.

    Yields:
        One result row for each file or array row, in order. `input` is the row number, or the file's path relative to
        the folder; bytes of the path that are not UTF-8 are escaped. For an input that was read, the result row also
        contains `label`, `class` (None if the policy abstains), `original_label`, `clipped_label`, `flagged`,
        `corrected`, `reason`, `p_value` and `margin_gap` (both None if the input was not tested), `confidence` (None if
        no corrected label was proposed), and, if the file has several frames, `first_frame` (True). For an unreadable
        input, the result row contains only `input` and `error`.
        For a skipped file, such as an operating-system file, the result row contains only `input` and `skipped`.

    Raises:
        InputError: there is nothing to scan, the inputs do not fit the model, or an input cannot be read.
        InferenceError: the networks cannot judge an input.
    """
    for batch in _batches(_items(guard.bundle.manifest.input, inputs, skip_bad)):
        yield from _rows(guard, batch, skip_bad)


def read_inputs(spec: InputSpec, inputs: Path, count: int) -> list[npt.NDArray[Any]]:
    """Read the first inputs of a folder or file, without judging them; leave out what cannot be read.

    Args:
        spec: description of the model's input.
        inputs: as in `scan`.
        count: maximum number of inputs.

    Returns:
        The inputs, each without a batch axis.

    Raises:
        InputError: there is nothing to read, or the inputs do not fit the model.
    """
    found = (item.x for item in _items(spec, inputs, True) if item.x is not None)
    return list(islice(found, count))


def _items(spec: InputSpec, inputs: Path, skip_bad: bool) -> Iterator[Item]:
    return _array_items(inputs, spec, skip_bad) if _is_array_file(inputs) else _image_items(inputs, spec)


def _is_array_file(inputs: Path) -> bool:
    return is_array_file(inputs) and not inputs.is_dir()


def _array_items(path: Path, spec: InputSpec, skip_bad: bool) -> Iterator[Item]:
    inputs = match_columns(read_array(path, spec.dtype), spec)
    check_dtype_and_shape(inputs.x, spec)  # all rows at once, so that the error message shows the shape in the file
    if inputs.faults and not skip_bad:
        raise InputError(
            f"{inputs.describe_faults()}; pass --skip-bad (in Python: skip_bad=True) to leave out such rows"
        )
    for i, x in enumerate(inputs.x):
        fault = inputs.faults.get(i)
        yield Item(str(i), x) if fault is None else Item(str(i), error=InputError(f"row {i} {fault}"))


def _image_items(inputs: Path, spec: InputSpec) -> Iterator[Item]:
    folder = inputs.is_dir()
    entries = list_files(inputs, hidden=True) if folder else [Entry(inputs)]
    if not entries or not (folder or os.path.lexists(inputs)):
        what = "the folder is empty" if folder else "no such file or folder"
        raise InputError(f"{shown(inputs)}: nothing to scan: {what}; provide images, or an .npy, .npz or .csv file")
    root = inputs if folder else inputs.parent
    for picture in read_images(entries, spec):
        name = _utf8(picture.path.relative_to(root).as_posix())
        yield Item(name, picture.x, picture.error, picture.passed_over, picture.more_frames)


def _utf8(name: str) -> str:
    """Escape the bytes of a file name that are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items in order, in batches of at most `BATCH` items. All inputs of a batch have the same shape."""
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


def _rows(guard: "Guard", batch: list[Item], skip_bad: bool) -> Iterator[Row]:
    judged = _judged(guard, batch)
    for item in batch:
        if item.error is not None:
            if not skip_bad:
                raise type(item.error)(
                    f"{item.error}; pass --skip-bad (in Python: skip_bad=True) to leave out such files"
                ) from item.error
            yield {"input": item.name, "error": str(item.error)}
        elif item.x is None:
            yield {"input": item.name, "skipped": item.skipped}
        else:
            row = next(judged)
            if row["reason"] == Reason.UNTESTED and not skip_bad:
                raise InferenceError(
                    f"input {item.name} could not be tested, because a network failed, was late, or returned NaN or "
                    "infinity; pass --skip-bad (in Python: skip_bad=True) to continue after such inputs"
                )
            yield row


def _judged(guard: "Guard", batch: list[Item]) -> Iterator[Row]:
    """Yield a result row for every item that was read."""
    good = [item for item in batch if item.x is not None]
    if not good:
        return
    try:
        decision = guard(np.stack([item.x for item in good if item.x is not None]))
    except InferenceError as error:
        raise InferenceError(f"inputs {good[0].name} to {good[-1].name}: {error}") from error
    for i, item in enumerate(good):
        row = _row(guard.bundle.manifest.classes, decision, i, item.name)
        yield row | {"first_frame": True} if item.more_frames else row


def summarise(guard: "Guard", rows: list[Row]) -> Summary:
    """Count the results of a scan, and compare the number of small p-values with the number that chance explains.

    Args:
        guard: the guard that judged the inputs.
        rows: the result rows that `scan` yielded.

    Returns:
        The counts.

    Raises:
        InputError: no input was judged.
    """
    null = guard.bundle.manifest.null
    answered = [row for row in rows if "reason" in row]
    judged = [row for row in answered if row["reason"] != Reason.UNTESTED]
    if not judged:
        raise InputError("no input was judged; see `error` or `reason` in each result row")
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
        "confidence": _number(decision.confidences[i]),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
