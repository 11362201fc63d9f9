"""Judge a folder of images, or a file of arrays, row by row; and say whether so many flags are chance."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError, UnreadableImageError
from mmguard.guard.guard import Guard
from mmguard.images import find_images, image_batches
from mmguard.inputs import ARRAY_SUFFIXES, check_batch, read_array
from mmguard.stats import most_by_chance
from mmguard.types import ABSTAIN, Decision

BATCH = 64

Row = dict[str, Any]


@dataclass
class Summary:
    """Counts of a scan.

    Attributes:
        inputs, flagged, corrected, unreadable: numbers of files or rows.
        reasons: flags by reason.
        improbable: inputs whose p-value is at most θ, flagged or not.
        limit: most of these that clean inputs would give, except with a probability of 0.1 %. The null was fitted on n
            samples, so its level is taken to be as uncertain as a share seen in n samples. None without a test.
    """

    inputs: int
    flagged: int
    corrected: int
    unreadable: int
    reasons: dict[str, int]
    improbable: int
    limit: int | None

    @property
    def alarming(self) -> bool:
        """Whether more inputs are improbable than clean ones would be."""
        return self.limit is not None and self.improbable > self.limit


def scan(guard: Guard, inputs: Path, skip_bad: bool = False) -> Iterator[Row]:
    """Judge every input.

    Args:
        guard: the guard; its policy labels.
        inputs: folder of images (all below it), one image, an `.npy` or `.npz` with `x`, or a `.csv`.
        skip_bad: give a row with an `error` for an image that cannot be decoded, instead of raising.

    Yields:
        One row an input: `input` (path relative to the folder, or row number), `label`, `class` (null where the policy
        abstains), `original_label`, `clipped_label`, `flagged`, `corrected`, `reason`, `p_value`, `margin_gap` (both
        null where there is no test).

    Raises:
        InputError: nothing to scan, or inputs that the model does not take.
    """
    if inputs.suffix in ARRAY_SUFFIXES:
        x, _ = read_array(inputs, guard.bundle.manifest.input.dtype)
        check_batch(x, guard.bundle.manifest.input)  # as a whole, so that an error shows the file's own shape
        for start in range(0, len(x), BATCH):
            part = x[start : start + BATCH]
            yield from _rows(guard, part, [str(start + i) for i in range(len(part))])
        return
    paths = find_images(inputs) if inputs.is_dir() else [inputs]
    if not paths or not paths[0].is_file():
        raise InputError(f"{inputs}: nothing to scan; expected a folder of images, an image, or an array")
    root = inputs if inputs.is_dir() else inputs.parent
    for good, x, errors in image_batches(paths, guard.bundle.manifest.input, BATCH):
        yield from _rows(guard, x, [path.relative_to(root).as_posix() for path in good])
        yield from _unreadable(errors, skip_bad)


def summarise(guard: Guard, rows: list[Row]) -> Summary:
    """Count rows, and compare their p-values with what the level of the test allows clean inputs.

    Raises:
        InputError: there is no row that was judged.
    """
    null = guard.bundle.manifest.null
    judged = [row for row in rows if "error" not in row]
    if not judged:
        raise InputError("nothing was judged: there is no input, or none could be read")
    reasons = [row["reason"] for row in judged if row["flagged"]]
    return Summary(
        inputs=len(judged),
        flagged=len(reasons),
        corrected=sum(row["corrected"] for row in judged),
        unreadable=len(rows) - len(judged),
        reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        improbable=sum(row["p_value"] is not None and row["p_value"] <= null.theta for row in judged) if null else 0,
        limit=most_by_chance(len(judged), null.theta, null.n) if null else None,
    )


def _unreadable(errors: list[UnreadableImageError], skip_bad: bool) -> Iterator[Row]:
    for error in errors:
        if not skip_bad:
            raise UnreadableImageError(f"{error}; pass --skip-bad to go on without such files")
        yield {"error": str(error)}


def _rows(guard: Guard, x: npt.NDArray[Any], names: list[str]) -> list[Row]:
    if not names:
        return []
    decision = guard(x)
    return [_row(guard.bundle.manifest.classes, decision, i, name) for i, name in enumerate(names)]


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
    return None if np.isnan(value) else float(value)
