"""Converts between arrays and the tensors of PyTorch, Keras and TensorFlow without importing these libraries."""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError, PredictorMismatchError

Array = npt.NDArray[Any]


def torch() -> Any:
    """Return the module `torch` if the process has imported PyTorch, else None.

    If this returns None, no predictor can be a PyTorch module.
    """
    return sys.modules.get("torch")


def is_torch_tensor(value: object) -> bool:
    """Return whether a value is a PyTorch tensor.

    Args:
        value: any object.

    Returns:
        True for a PyTorch tensor.

    Example:
        >>> is_torch_tensor(np.zeros(2))
        False
    """
    return torch() is not None and isinstance(value, torch().Tensor)


def to_array(tensor: Any) -> Array:
    """Convert a tensor to an array on the CPU, without gradients.

    Args:
        tensor: a tensor of any library, or any object that NumPy can convert.

    Returns:
        The array. bfloat16 becomes float32, because NumPy does not have bfloat16.
    """
    if is_torch_tensor(tensor):
        array: Array = (tensor.float() if tensor.dtype == torch().bfloat16 else tensor).numpy(force=True)
        return array
    return np.asarray(tensor)


def as_batch(value: Any, dtype: str) -> Array:
    """Convert inputs to a new array of the model's dtype.

    If the conversion could change the meaning of a value, the array keeps the dtype of the inputs, and the guard will
    reject the array.

    Args:
        value: a list, a table, an array or a tensor (N, ...).
        dtype: name of the model's dtype.

    Returns:
        The array (N, ...).

    Raises:
        InputError: The rows have unequal lengths.

    Example:
        >>> as_batch([[1, 2]], "float32")
        array([[1., 2.]], dtype=float32)
    """
    try:
        array = np.array(to_array(value))
    except ValueError as error:
        raise InputError(f"expected an array (N, ...) of numbers, with rows of equal length: {error}") from error
    fits_uint8 = dtype == "uint8" and array.dtype.kind in "iu" and ((array >= 0) & (array <= 255)).all()
    with np.errstate(over="ignore"):
        return array.astype(dtype) if fits_uint8 or np.can_cast(array.dtype, dtype, "same_kind") else array


def like(tensor: Any, array: Array) -> Any:
    """Convert an array to the type of a given tensor.

    Args:
        tensor: a tensor of the target type.
        array: the values.

    Returns:
        The values as a tensor of the same library. For NumPy and PyTorch, the dtype and the device are also the same.

    Raises:
        PredictorMismatchError: The tensor's type is not supported.
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
        f"the predictor returned {type(tensor).__name__}; expected a NumPy array, or a PyTorch, Keras or "
        "TensorFlow tensor"
    )


def _call(library: str, path: str, array: Array) -> Any:
    """Call a function of a library; return None if the library is not imported or lacks the function."""
    found: Any = sys.modules.get(library)
    for name in path.split("."):
        found = getattr(found, name, None)
    return None if found is None else found(array)
