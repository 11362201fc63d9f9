"""ONNX Runtime sessions on batches of any size, also where a model takes batches of one size only."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Outputs = list[Any]
"""Of a model, in order: arrays (N, ...), or lists of N where it gives a sequence."""

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
}
"""NumPy's names of the element types that a guarded model may take."""


def fixed_size(session: Any) -> int | None:
    """The one size of a batch that an `onnxruntime.InferenceSession` of one input takes; None where it takes any.

    ONNX Runtime takes a negative length of an axis, as some exporters write it, for any.
    """
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) and size > 0 else None


def run_session(session: Any, names: Sequence[str], x: Array) -> Outputs:
    """Run a session of one input.

    Args:
        session: an `onnxruntime.InferenceSession`. names: of the outputs to give.
        x: (N, ...), of the model's dtype or of float32 numbers that it can hold.

    Returns:
        The outputs for the N inputs, in the order of the names.
    """
    (given,) = session.get_inputs()
    x = x.astype(DTYPES[given.type], copy=False)
    size = fixed_size(session)

    def run(part: Array) -> Outputs:
        outputs: Outputs = session.run(list(names), {given.name: part})
        return outputs

    return run(x) if size in (None, len(x)) else run_fixed(run, x, size)


def run_fixed(run: Callable[[Array], Outputs], x: Array, size: int) -> Outputs:
    """Run a model that takes batches of one size on a batch of any.

    Args:
        run: takes (size, ...) and gives the model's outputs.
        x: (N, ...); where N is 0, one input of zeros finds out what the outputs look like.

    Returns:
        The outputs for the N inputs. One whose first axis is not the batch's is that of the first part.
    """
    given = x if len(x) else np.zeros((1, *x.shape[1:]), x.dtype)
    results = [run(part) for part in parts(given, size)]
    return [_joined(outputs, size, len(x)) for outputs in zip(*results, strict=True)]


def parts(x: Array, size: int) -> Iterator[Array]:
    """Parts (size, ...) of x (N, ...); the last is filled up with copies of its own last row."""
    for start in range(0, len(x), size):
        part = x[start : start + size]
        yield np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]) if len(part) < size else part


def _joined(outputs: Sequence[Any], size: int, n: int) -> Any:
    first = outputs[0]
    if isinstance(first, list):
        return [row for part in outputs for row in part][:n]
    return np.concatenate(outputs)[:n] if first.ndim and len(first) == size else first
