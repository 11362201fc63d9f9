"""Run ONNX Runtime sessions on batches of any size, even if the model accepts only one batch size."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mmguard.runtime.dtypes import INPUT_DTYPE_BY_ORT_TYPE

Array = npt.NDArray[Any]
Outputs = list[Any]
"""The outputs of a model, in order: each is an array (N, ...), or a list of N items if the output is a sequence."""

_inputs: "WeakKeyDictionary[ort.InferenceSession, tuple[str, Any, int | None]]" = WeakKeyDictionary()


def fixed_size(session: Any) -> int | None:
    """Return the only batch size that a session accepts, or None if the session accepts any batch size.

    A negative length, which some exporters write and ONNX Runtime accepts, also means that the axis is dynamic.

    Args:
        session: an `onnxruntime.InferenceSession` with one input.
    """
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) and size > 0 else None


def run_session(session: Any, names: Sequence[str], x: Array) -> Outputs:
    """Run a session with one input on a batch of any size.

    Args:
        session: an `onnxruntime.InferenceSession`.
        names: names of the outputs to return.
        x: (N, ...) inputs, in the model's dtype, or in float32 if the model's dtype can represent every number.

    Returns:
        The outputs for the N inputs, in the order of `names`.
    """
    name, dtype, size = _known_input_of(session)
    x, asked = x.astype(dtype, copy=False), names if isinstance(names, list) else list(names)

    def run(part: Array) -> Outputs:
        outputs: Outputs = session.run(asked, {name: part})
        return outputs

    return run(x) if size in (None, len(x)) else run_fixed(run, x, size)


def _input_of(session: Any) -> tuple[str, Any, int | None]:
    """Return the name, NumPy dtype and fixed batch size of a session's only input."""
    (given,) = session.get_inputs()
    return given.name, INPUT_DTYPE_BY_ORT_TYPE[given.type], fixed_size(session)


def _known_input_of(session: Any) -> tuple[str, Any, int | None]:
    """Return the same, but ask each of ONNX Runtime's own sessions only once, because asking takes long."""
    if not isinstance(session, ort.InferenceSession):
        return _input_of(session)
    if (found := _inputs.get(session)) is None:
        found = _inputs[session] = _input_of(session)
    return found


def run_fixed(run: Callable[[Array], Outputs], x: Array, size: int) -> Outputs:
    """Run a model with a fixed batch size on a batch of any size.

    Args:
        run: function that takes a batch (size, ...) and returns the model's outputs.
        x: (N, ...) inputs. If N is 0, the model is run on all-zero inputs to find out the shapes and dtypes of its
            outputs.
        size: the model's batch size.

    Returns:
        The outputs for the N inputs. An output whose first axis is not the batch axis is taken from the first part of
        the batch.
    """
    given = x if len(x) else np.zeros((1, *x.shape[1:]), x.dtype)
    results = [run(part) for part in parts(given, size)]
    return [_joined(outputs, size, len(x)) for outputs in zip(*results, strict=True)]


def parts(x: Array, size: int) -> Iterator[Array]:
    """Split a batch into parts of equal size.

    Args:
        x: (N, ...) inputs.
        size: number of inputs in each part.

    Yields:
        Parts (size, ...) in order; the last part is padded with copies of the last input.

    Example:
        >>> [part.tolist() for part in parts(np.array([1, 2, 3]), 2)]
        [[1, 2], [3, 3]]
    """
    for start in range(0, len(x), size):
        part = x[start : start + size]
        yield np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]) if len(part) < size else part


def _joined(outputs: Sequence[Any], size: int, n: int) -> Any:
    """Join one output of all parts, and remove the padding."""
    first = outputs[0]
    if isinstance(first, list):
        return [row for part in outputs for row in part][:n]
    return np.concatenate(outputs)[:n] if first.ndim and len(first) == size else first
