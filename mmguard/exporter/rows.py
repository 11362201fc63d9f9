"""Each input has its own answer: a row of its own, whatever else is in the batch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.manifest import OutputSpec
from mmguard.errors import BatchDependentError, NotClassifierError
from mmguard.runtime.batches import fixed_size, run_session
from mmguard.runtime.session import new_session

TRIED = 8
"""Inputs that are answered in several batches."""

NOISE = 1e-5
"""By what share of the largest logit kernels may differ, and ties may be decided either way."""

Array = npt.NDArray[Any]
Row = Mapping[str, Array]
"""What one input is answered, by output."""


def require_rows(model: Path, x: npt.NDArray[np.float32], output: OutputSpec, tolerance: float) -> float:
    """Refuse logits, or outputs made of them, that do not have a row for each input, or one that others change.

    Some inputs are answered alone, twice over, in another order, and beside inputs of the smallest and of the largest
    numbers that there are; of a model that takes batches of one size, always in batches of that size.

    Args:
        model: ONNX file that gives these. x: (N, ...) float32 inputs.
        tolerance: largest difference of an answer that batches may make, relative to the largest answer: kernels round
            differently by the size of a batch.

    Returns:
        The largest difference that was found, relative so.

    Raises:
        NotClassifierError: names the first output without a row for each input.
        BatchDependentError: names the first output that differs by more.
    """
    session, names = new_session(model), list(dict.fromkeys((output.logits, *output.derived)))
    size, few = fixed_size(session), x[:TRIED]
    for n in (2, 3) if size is None else (size,):
        for name, got in zip(names, run_session(session, names, few[np.arange(n) % len(few)]), strict=True):
            _require_a_row_each(name, got, n)
    pool = np.concatenate([few, x.min(axis=0, keepdims=True), x.max(axis=0, keepdims=True)])
    batches = list(_batches(len(few), size))
    answers = [dict(zip(names, run_session(session, names, pool[batch]), strict=True)) for batch in batches]
    rows = [
        [
            {name: _array(each[name][place]) for name in names}
            for each, batch in zip(answers, batches, strict=True)
            for place, which in enumerate(batch)
            if which == i
        ]
        for i in range(len(few))
    ]
    return max(_require_equal(name, rows, output.logits, tolerance) for name in names)


def _require_a_row_each(name: str, got: Any, n: int) -> None:
    shape = (len(got),) if isinstance(got, list) else got.shape
    if shape[:1] != (n,):
        raise NotClassifierError(
            f"{name!r} has shape {shape} for {n} inputs; a guard needs a row for each input on the first axis: "
            "export the model without what removes or moves it"
        )


def _batches(n: int, size: int | None) -> Iterator[list[int]]:
    """Batches of n inputs and of the two extreme ones behind them, as numbers; the first hold every input."""
    every, extremes = list(range(n)), [n, n + 1]
    if size is None:
        yield from ([i] for i in every)
        yield from (every, [i for i in every for _ in range(2)], every[::-1], [*extremes, *every])
        return
    filled = [i % n for i in range(size)]
    starts = range(0, n, size)
    yield from ([(start + i) % n for i in range(size)] for start in starts)
    yield from (filled[::-1], [*filled[1:], filled[0]])
    yield from ([i, *(extremes * size)][:size] for i in every)


def _require_equal(name: str, rows: Sequence[Sequence[Row]], logits: str, tolerance: float) -> float:
    """The largest difference between answers to one input; refused above the tolerance.

    Args:
        rows: of each input, its answers in all batches.
    """
    if rows[0][0][name].dtype.kind != "f":
        if any(_differs(first, other, name, logits) for first, *others in rows for other in others):
            raise BatchDependentError(_refusal(name, "differs although its logits are the same"))
        return 0.0
    numbers = [np.stack([row[name].astype(np.float64) for row in each]) for each in rows]
    largest = max(np.abs(each[np.isfinite(each)]).max(initial=0.0) for each in numbers) or 1.0
    worst = max(map(_change, numbers)) / largest
    if worst > tolerance:
        raise BatchDependentError(_refusal(name, f"changes by {worst:.2g} times its largest number"))
    return worst


def _change(answers: Array) -> float:
    """The largest difference of answers (B, ...) to one input; infinite where some are not numbers and others are."""
    first = answers[:1]
    with np.errstate(invalid="ignore"):
        change = np.where((answers == first) | (np.isnan(answers) & np.isnan(first)), 0.0, np.abs(answers - first))
    return float(np.nan_to_num(change, nan=np.inf).max(initial=0.0))


def _refusal(name: str, change: str) -> str:
    return (
        f"the answer to an input depends on what else is in its batch: {name!r} of one input {change} in "
        "another batch. A mean, a softmax or a normalisation over the batch's axis does that; export the model in "
        "evaluation mode, without such a layer over axis 0"
    )


def _differs(one: Row, other: Row, name: str, logits: str) -> bool:
    """Whether answers that are not numbers differ, though the logits are as good as equal and none of them tie."""
    a, b = one[logits], other[logits]
    noise = NOISE * np.abs(a).max(initial=0.0)
    same = np.abs(a - b).max(initial=0.0) <= noise and np.diff(np.sort(a)).min(initial=np.inf) > 4 * noise
    return bool(same and not np.array_equal(one[name], other[name]))


def _array(row: Any) -> Array:
    """One answer; of a map the numbers, whose names are always the same."""
    return np.asarray(list(row.values()) if isinstance(row, dict) else row)
