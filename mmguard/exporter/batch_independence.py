"""Check that a model returns one row for each input, regardless of the other inputs in the batch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.manifest import OutputSpec
from mmguard.errors import BatchDependentError, NotClassifierError
from mmguard.runtime.batches import fixed_size, run_session
from mmguard.runtime.difference import absolute_difference
from mmguard.runtime.session import new_session

TRIED = 8
"""Number of inputs that are checked. Each of these inputs is run in several different batches."""

NOISE = 1e-5
"""Largest difference between logits that counts as a rounding error, relative to the largest logit. Kernels differ in
how they round."""

Array = npt.NDArray[Any]
Row = Mapping[str, Array]
"""The outputs for one input, by name."""


def check_batch_independence(model: Path, x: npt.NDArray[np.float32], output: OutputSpec, tolerance: float) -> float:
    """Check that the logits and derived outputs have one row per input, and that no row depends on other inputs.

    A few inputs are run alone, twice in one batch, in reverse order, and together with two extreme inputs: the
    minimum and the maximum of x at each position. A model with a fixed batch size always gets
    batches of that size.

    Args:
        model: ONNX file whose outputs include those named in `output`.
        x: (N, ...) float32 inputs.
        output: the names of the outputs of the user's model, and of the logits.
        tolerance: largest difference allowed between batches, relative to the largest output. It must be above 0,
            because kernels round differently at different batch sizes.

    Returns:
        The largest difference found, relative to the largest output.

    Raises:
        NotClassifierError: an output does not have one row for each input; the message names the output.
        BatchDependentError: an output differs between batches by more than the tolerance; the message names the output.
    """
    session, names = new_session(model), list(dict.fromkeys((output.logits, *output.derived)))
    size, few = fixed_size(session), x[:TRIED]
    for n in (2, 3) if size is None else (size,):
        for name, got in zip(names, run_session(session, names, few[np.arange(n) % len(few)]), strict=True):
            _check_row_count(name, got, n)
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
    return max(_check_equal(name, rows, output.logits, tolerance) for name in names)


def _check_row_count(name: str, got: Any, n: int) -> None:
    shape = (len(got),) if isinstance(got, list) else got.shape
    if shape[:1] != (n,):
        raise NotClassifierError(
            f"expected output {name!r} to have one row per input along its first axis, but it has shape {shape} for "
            f"{n} inputs; export the model without the operator that removes or moves the batch axis"
        )


def _batches(n: int, size: int | None) -> Iterator[list[int]]:
    """Yield batches, each as a list of indices: 0 to n - 1 for the inputs, n and n + 1 for the two extreme inputs.

    Batches without extreme inputs come first. Together, these batches contain every input.
    """
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


def _check_equal(name: str, rows: Sequence[Sequence[Row]], logits: str, tolerance: float) -> float:
    """Return the largest difference between the outputs for one input in different batches.

    Args:
        name: name of the output.
        rows: for each input, its outputs in every batch that contains it.
        logits: name of the logits.
        tolerance: largest difference allowed, relative to the largest output.

    Raises:
        BatchDependentError: the difference exceeds the tolerance.
    """
    if rows[0][0][name].dtype.kind != "f":
        if any(_differs(first, other, name, logits) for first, *others in rows for other in others):
            raise BatchDependentError(_message(name, "although the logits are the same"))
        return 0.0
    numbers = [np.stack([row[name].astype(np.float64) for row in each]) for each in rows]
    largest = max(np.abs(each[np.isfinite(each)]).max(initial=0.0) for each in numbers) or 1.0
    changes = [absolute_difference(each, np.broadcast_to(each[:1], each.shape), equal_nan=True) for each in numbers]
    worst = float(np.max(changes)) / largest
    if not worst <= tolerance:
        raise BatchDependentError(_message(name, f"by {worst:.2g} times the largest value"))
    return worst


def _message(name: str, how: str) -> str:
    return (
        f"the model's output for an input depends on what else is in its batch: output {name!r} for the same input "
        f"differs between batches {how}. A mean, softmax or normalisation over the batch axis can cause this; export "
        "the model in evaluation mode, without such operators over axis 0"
    )


def _differs(one: Row, other: Row, name: str, logits: str) -> bool:
    """Return whether a non-float output differs between two batches although the logits are equal.

    Logits count as equal if they differ only by rounding errors. The result is False if two classes have nearly
    the same logit.
    """
    a, b = one[logits], other[logits]
    noise = NOISE * np.abs(a).max(initial=0.0)
    same = absolute_difference(b, a) <= noise and np.diff(np.sort(a)).min(initial=np.inf) > 4 * noise
    return bool(same and not np.array_equal(one[name], other[name]))


def _array(row: Any) -> Array:
    """Return one output row as an array. For a map, the array has only the values, because the keys never change."""
    return np.asarray(list(row.values()) if isinstance(row, dict) else row)
