"""Convert ONNX tensors to PyTorch tensors, and move tensors to a common device and dtype."""

from functools import reduce

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from mmguard.errors import UnsupportedOperatorError

DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
}
"""PyTorch dtype for each ONNX element type that PyTorch can at least store and convert to other types."""

STORED = frozenset({torch.uint16, torch.uint32, torch.uint64})
"""Dtypes that PyTorch can store but not compute with; kernels compute in int64 instead."""


def to_torch(tensor: ir.TensorProtocol) -> Tensor:
    """Copy an ONNX tensor to a PyTorch tensor on the CPU.

    Args:
        tensor: weight or constant of an ONNX model.

    Returns:
        A tensor of the same shape and element type.

    Raises:
        UnsupportedOperatorError: PyTorch cannot compute with the element type, for example strings or 8-bit floats.
    """
    if tensor.dtype not in DTYPES:
        raise UnsupportedOperatorError(
            f"Tensor {tensor.name!r} has element type {tensor.dtype}, for which mmguard cannot compute gradients. "
            "Provide the model in float32, without quantisation."
        )
    array = np.array(tensor.numpy())
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def widened(tensor: Tensor) -> Tensor:
    """Convert floats of any width to float32 without turning finite values into infinite ones.

    For example, the lowest float64, which attention masks contain, becomes the lowest float32 and not -inf.

    Args:
        tensor: tensor of any dtype.

    Returns:
        A float32 tensor, or the tensor itself if it does not contain floats.

    Example:
        >>> widened(torch.tensor([1.5], dtype=torch.float64))
        tensor([1.5000])
    """
    if not tensor.is_floating_point():
        return tensor
    if tensor.dtype is not torch.float64:
        return tensor.float()
    limit = torch.finfo(torch.float32).max
    return torch.where(tensor.isinf(), tensor, tensor.clamp(-limit, limit)).float()


def aligned(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Move tensors to the same device.

    CPU tensors, for example tensors computed from shapes, are moved to the device of the other tensors. CPU scalars are
    not moved, because PyTorch accepts them in any operation.

    Args:
        *tensors: tensors that are each on the CPU or on one common other device.

    Returns:
        The tensors, in the same order.
    """
    for tensor in tensors:
        if not tensor.is_cpu:
            return tuple(t.to(tensor.device) if t.is_cpu and t.dim() else t for t in tensors)
    return tensors


def alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Move tensors to the same device and promote them to the same dtype. Under autocast, float dtypes can differ.

    Args:
        *tensors: tensors that are each on the CPU or on one common other device.

    Returns:
        The tensors, in the same order.
    """
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return tuple(tensor.to(dtype) for tensor in aligned(*tensors))


def integers(tensor: Tensor) -> list[int]:
    """Convert a tensor that contains a shape, axes or lengths to a list.

    Args:
        tensor: scalar () or vector (n,) of any dtype.

    Returns:
        The values as Python integers.

    Example:
        >>> integers(torch.tensor([2, -1])), integers(torch.tensor(3))
        ([2, -1], [3])
    """
    return [int(value) for value in tensor.reshape(-1).tolist()]


def along(vector: Tensor, axis: int, dims: int) -> Tensor:
    """Reshape a vector so that it broadcasts along one axis of a tensor.

    Args:
        vector: tensor (n,).
        axis: axis of the result that has length n; a negative number counts from the end.
        dims: number of axes of the result.

    Returns:
        A tensor with `dims` axes, all of length 1 except `axis`.

    Example:
        >>> tuple(along(torch.zeros(3), axis=1, dims=4).shape)
        (1, 3, 1, 1)
    """
    return vector.reshape([-1 if i == axis % dims else 1 for i in range(dims)])
