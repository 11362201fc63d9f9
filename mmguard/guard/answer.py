"""Applies the policy to the model's own outputs before they are returned to the caller."""

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
"""The output head: a function that computes the derived outputs, in order, from logits (n, K) float32."""


def guarded_outputs(
    outputs: Mapping[str, Any], clipped: Logits | None, decision: Decision, spec: OutputSpec, head: Head | None
) -> dict[str, Any]:
    """Apply the policy to the model's own outputs.

    Corrected rows are computed from the clipped network's logits. In these logits, the original network's class is
    ranked last, so the arg max is the corrected label. Rows without a label are void: they contain NaN (floats), -1
    (signed integers), the largest value of the dtype (unsigned integers) or empty strings (text). All other rows are
    returned unchanged, bit for bit. Outputs that are not computed from the logits alone are also returned unchanged.

    Args:
        outputs: the original network's outputs, by name; each is an array (N, ...) or a list of N maps.
        clipped: (N, K) logits of the clipped network; None if no row is corrected.
        decision: the decision for the N inputs.
        spec: the manifest's description of the outputs, including which outputs are computed from the logits.
        head: the output head; None if the model has no derived outputs.

    Returns:
        The new outputs, by name. `outputs` and its arrays are not modified.
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
    """Replace some rows of one network's outputs with the same rows of another network's outputs.

    Args:
        outputs: outputs of one network, by name.
        others: outputs of the other network, by the same names.
        rows: (N,) bool, True for the rows to replace.

    Returns:
        The new outputs, by name. An output that does not have one row for each input is returned unchanged.

    Example:
        >>> ours, theirs = {"y": np.array([1, 2])}, {"y": np.array([8, 9])}
        >>> with_rows_of(ours, theirs, np.array([False, True]))["y"].tolist()
        [1, 9]
    """
    if not rows.any():
        return dict(outputs)
    return {
        name: _with_rows(output, rows, _rows(others[name], rows)) if _has_rows(output, len(rows)) else output
        for name, output in outputs.items()
    }


def own_copy(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a predictor's outputs, so that the predictor can reuse their memory.

    Args:
        outputs: the outputs, by name; each is an array or a list of maps.

    Returns:
        The copies, by name.
    """
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
    """Return a copy of an output in which some rows are replaced.

    Raises:
        InferenceError: the shape or type of the values differs from that of the output, so the head belongs to a
            different model.
    """
    expected = (int(rows.sum()), *_form(output)[1:])
    if (form := _form(values)) != expected:
        raise InferenceError(
            f"expected runtime_graphs.head to return an output of shape {expected}, got {form}; "
            "calibrate the model again"
        )
    if isinstance(output, list):
        fresh = iter(values)
        return [next(fresh) if changed else row for row, changed in zip(output, rows, strict=True)]
    result = output.copy()
    result[rows] = values
    return result


def _form(output: Any) -> tuple[object, ...]:
    """Return the shape of an array, or the length of a list of maps and the word "maps"."""
    return (len(output), "maps") if isinstance(output, list) else np.shape(output)


def _without_rows(output: Any, rows: BoolArray) -> Any:
    """Return a copy of an output in which some rows are void, as described in `guarded_outputs`."""
    if isinstance(output, list):
        return [dict.fromkeys(row, np.nan) if void else row for row, void in zip(output, rows, strict=True)]
    result = output.copy()
    result[rows] = {"f": np.nan, "i": -1, "u": np.iinfo(output.dtype).max if output.dtype.kind == "u" else 0}.get(
        output.dtype.kind, ""
    )
    return result
