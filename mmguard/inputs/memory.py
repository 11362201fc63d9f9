"""Turn a calibration set in memory (arrays, tensors or the batches of a loader) into inputs of a model."""

from typing import Any

import numpy as np

from mmguard.errors import CleanSetError
from mmguard.inputs.inputs import Array, Inputs

CALIBRATION_SET = "the calibration set"
"""Phrase that messages use for data in memory."""


def inputs_from_memory(data: object, dtype: str = "float32") -> Inputs:
    """Turn a calibration set in memory into inputs. For a file, use `read_array`.

    Args:
        data: an array or a tensor x (N, ...); a tuple (x, y) with labels y (N,); or an iterable of batches, each of
            which is x or (x, y). An iterable is read only once; to convert its data to two dtypes, call `gather` once
            and `Inputs.of` for each dtype.
        dtype: name of the NumPy dtype that the model takes, such as `float32`.

    Returns:
        The inputs; their `source` is "the calibration set". Rows that the model cannot take are listed in `faults`.

    Raises:
        CleanSetError: The data is empty or does not consist of numbers, or its batches cannot be concatenated.
        InputError: The inputs are not real numbers or have no batch axis, the labels do not match the inputs, or the
            data does not fit into memory.
    """
    return Inputs.of(*gather(data), dtype, CALIBRATION_SET)


def gather(data: object) -> tuple[Array, Array | None]:
    """Concatenate a calibration set in memory, without converting its dtype.

    Args:
        data: an array or a tensor x (N, ...); a tuple (x, y) with labels y (N,); or an iterable of batches, each of
            which is x or (x, y).

    Returns:
        x (N, ...) with N at least 1, and y (N,), which is None if there are no labels.

    Raises:
        CleanSetError: The data is empty or does not consist of numbers, or its batches cannot be concatenated.
    """
    x, y = _batch(data) if isinstance(data, tuple) or hasattr(data, "__array__") else _concatenate(data)
    if not len(x):
        raise CleanSetError(f"{CALIBRATION_SET} is empty; provide about 50 inputs per class")
    return x, y


def _concatenate(loader: Any) -> tuple[Array, Array | None]:
    batches = [_batch(batch) for batch in loader]
    if not batches:
        return np.empty((0, 1), np.float32), None
    labels = [y for _, y in batches if y is not None]
    if len(labels) not in (0, len(batches)):
        raise CleanSetError(
            f"{CALIBRATION_SET}: {len(labels)} of {len(batches)} batches have labels; provide labels for all batches "
            "or for none of them"
        )
    try:
        return np.concatenate([x for x, _ in batches]), np.concatenate(labels) if labels else None
    except ValueError as error:
        raise CleanSetError(
            f"{CALIBRATION_SET}: the batches cannot be concatenated: {error}; provide inputs that all have the same "
            "shape"
        ) from error


def _batch(batch: Any) -> tuple[Array, Array | None]:
    """Return the inputs of a loader's batch, and the labels, which are None if the batch has no labels."""
    if isinstance(batch, (tuple, list)):
        if len(batch) not in (1, 2):
            raise CleanSetError(
                f"{CALIBRATION_SET}: expected x or (x, y), got {len(batch)} parts; provide only the inputs x, or "
                "the inputs and the labels (x, y)"
            )
        return _array(batch[0]), _array(batch[1]) if len(batch) == 2 else None
    return _array(batch), None


def _array(value: Any) -> Array:
    """Convert an array or a tensor of any framework to a NumPy array."""
    detached = value.detach().cpu() if hasattr(value, "detach") else value
    if str(getattr(detached, "dtype", "")) == "torch.bfloat16":  # NumPy has no bfloat16
        detached = detached.float()
    array = np.asarray(detached)
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise CleanSetError(
            f"{CALIBRATION_SET}: expected arrays or tensors of numbers, got {type(value).__name__}; provide x, (x, y), "
            "or a loader whose batches are x or (x, y)"
        )
    return array
