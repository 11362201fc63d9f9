"""What the model's caller is given: the user's own outputs with the policy applied."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.manifest import OutputSpec
from mmguard.detection.margins import exclude_class
from mmguard.errors import InferenceError
from mmguard.types import ABSTAIN, BoolArray, Decision

Logits = npt.NDArray[np.float32]
Head = Callable[[Logits], Sequence[Any]]
"""From logits (n, K) float32 to the derived outputs, in their order."""


def guarded_outputs(
    outputs: Mapping[str, Any], clipped: Logits | None, decision: Decision, spec: OutputSpec, head: Head | None
) -> dict[str, Any]:
    """The model's own outputs with the policy applied.

    A corrected row carries the clipped network's values with the original's class put last, so that its arg max is the
    corrected label; a row without a label is NaN (-1 of integers, empty of text); every other row is the original's,
    bit for bit. An output that is not computed from the logits alone stays as it is.

    Args:
        outputs: by name, what the original network returned: arrays (N, ...), or lists of N maps.
        clipped: (N, K) logits, None where nothing is corrected.
        head: computes the derived outputs; None where there are none.
    """
    result = dict(outputs)
    if clipped is not None and decision.corrected.any():
        rows = decision.corrected
        given = exclude_class(clipped[rows], decision.original_labels[rows]).astype(np.float32)
        values = {spec.logits: given} | (dict(zip(spec.derived, head(given), strict=True)) if head else {})
        result |= {name: _with_rows(result[name], rows, values[name]) for name in spec.names if name in values}
    if (abstained := decision.labels == ABSTAIN).any():
        result |= {name: _without_rows(result[name], abstained) for name in _of_logits(spec)}
    return result


def with_rows_of(outputs: Mapping[str, Any], others: Mapping[str, Any], rows: BoolArray) -> dict[str, Any]:
    """Outputs of one network, with those of another in some rows (N,). What has no row an input stays as it is."""
    if not rows.any():
        return dict(outputs)
    return {
        name: _with_rows(output, rows, _rows(others[name], rows)) if _has_rows(output, len(rows)) else output
        for name, output in outputs.items()
    }


def own_copy(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs in memory that whoever made them cannot change any more."""
    return {
        name: [_copied(row) for row in output] if isinstance(output, list) else _copied(output)
        for name, output in outputs.items()
    }


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (np.ndarray, dict)) else value


def _has_rows(output: Any, n: int) -> bool:
    return isinstance(output, list) or output.shape[:1] == (n,)


def _rows(output: Any, rows: BoolArray) -> Any:
    return (
        [row for row, wanted in zip(output, rows, strict=True) if wanted] if isinstance(output, list) else output[rows]
    )


def _of_logits(spec: OutputSpec) -> list[str]:
    return [name for name in spec.names if name == spec.logits or name in spec.derived]


def _with_rows(output: Any, rows: BoolArray, values: Any) -> Any:
    """A copy with other values in some rows.

    Raises:
        InferenceError: the values are not of the output's form: the head is not the model's.
    """
    if (form := _form(values)) != (rows.sum(), *_form(output)[1:]):
        raise InferenceError(f"runtime_graphs.head gives {form} for {rows.sum()} rows of an output of {_form(output)}")
    if isinstance(output, list):
        fresh = iter(values)
        return [next(fresh) if changed else row for row, changed in zip(output, rows, strict=True)]
    result = output.copy()
    result[rows] = values
    return result


def _form(output: Any) -> tuple[object, ...]:
    """The shape of an array, or the length of a list."""
    return (len(output), "maps") if isinstance(output, list) else np.shape(output)


def _without_rows(output: Any, rows: BoolArray) -> Any:
    """A copy with some rows made void."""
    if isinstance(output, list):
        return [dict.fromkeys(row, np.nan) if void else row for row, void in zip(output, rows, strict=True)]
    result = output.copy()
    result[rows] = {"f": np.nan, "i": -1, "u": np.iinfo(output.dtype).max if output.dtype.kind == "u" else 0}.get(
        output.dtype.kind, ""
    )
    return result
