"""Tensors of the libraries that a predictor may come from, as arrays and back. Imports none of these libraries."""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError, PredictorMismatchError

Array = npt.NDArray[Any]


def torch() -> Any:
    """PyTorch where the process has imported it, else None: then no predictor can be of it."""
    return sys.modules.get("torch")


def is_torch_tensor(value: object) -> bool:
    """Whether a value is a PyTorch tensor."""
    return torch() is not None and isinstance(value, torch().Tensor)


def to_array(tensor: Any) -> Array:
    """A tensor as an array, on the CPU and without gradients; bfloat16, which NumPy lacks, as float32."""
    if is_torch_tensor(tensor):
        array: Array = (tensor.float() if tensor.dtype == torch().bfloat16 else tensor).numpy(force=True)
        return array
    return np.asarray(tensor)


def as_batch(value: Any, dtype: str) -> Array:
    """A list, a table or a tensor as a new array of the model's dtype, as far as no value would become another.

    What cannot be is left for the guard's own check to refuse.

    Raises:
        InputError: rows of unequal length.
    """
    try:
        array = np.array(to_array(value))
    except ValueError as error:
        raise InputError(f"expected numbers (N, ...), with rows of equal length: {error}") from error
    whole = dtype == "uint8" and array.dtype.kind in "iu" and ((array >= 0) & (array <= 255)).all()
    with np.errstate(over="ignore"):
        return array.astype(dtype) if whole or np.can_cast(array.dtype, dtype, "same_kind") else array


def like(tensor: Any, array: Array) -> Any:
    """An array in the type of a tensor: of the same library, dtype and device.

    Raises:
        PredictorMismatchError: a type that is not known.
    """
    if isinstance(tensor, np.ndarray):
        return array.astype(tensor.dtype, copy=False)
    if is_torch_tensor(tensor):
        return torch().tensor(array, dtype=tensor.dtype, device=tensor.device)
    for library, convert in (("keras", "ops.convert_to_tensor"), ("tensorflow", "convert_to_tensor")):
        made = _call(library, convert, array)
        if isinstance(made, type(tensor)):
            return made
    raise PredictorMismatchError(
        f"the predictor returned {type(tensor).__name__}; expected a NumPy array, or a tensor of PyTorch or Keras"
    )


def _call(library: str, path: str, array: Array) -> Any:
    """What a function of a library makes of an array; None where the library is not there, or has no such function."""
    found: Any = sys.modules.get(library)
    for name in path.split("."):
        found = getattr(found, name, None)
    return None if found is None else found(array)
