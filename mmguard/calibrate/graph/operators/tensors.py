"""Between ONNX's values and PyTorch's: dtypes, constants, devices."""

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
"""The element types that PyTorch can calculate in, or at least store and convert."""

STORED = frozenset({torch.uint16, torch.uint32, torch.uint64})
"""Those that PyTorch only stores: it calculates in int64 instead."""


def to_torch(tensor: ir.TensorProtocol) -> Tensor:
    """A copy of an ONNX tensor on the CPU. Raises UnsupportedOperatorError for strings, 8-bit floats and the like."""
    if tensor.dtype not in DTYPES:
        raise UnsupportedOperatorError(
            f"Tensor {tensor.name!r} has element type {tensor.dtype}, of which gradients know nothing. "
            "Give the model in float32, before quantisation."
        )
    array = np.array(tensor.numpy())
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def widened(tensor: Tensor) -> Tensor:
    """Floats of any width in float32: what is finite stays so, such as the lowest double of an attention mask."""
    if not tensor.is_floating_point():
        return tensor
    if tensor.dtype is not torch.float64:
        return tensor.float()
    limit = torch.finfo(torch.float32).max
    return torch.where(tensor.isinf(), tensor, tensor.clamp(-limit, limit)).float()


def aligned(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on one device: those made from shapes are on the CPU and join the data on its device.

    Single numbers stay, because PyTorch takes them from the CPU in any operation.
    """
    for tensor in tensors:
        if not tensor.is_cpu:
            return tuple(t.to(tensor.device) if t.is_cpu and t.dim() else t for t in tensors)
    return tensors


def alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on one device and in one dtype: in a context that reduces precision some floats are narrower."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return tuple(tensor.to(dtype) for tensor in aligned(*tensors))


def integers(tensor: Tensor) -> list[int]:
    """The values of a shape-like tensor (n,) or () as a list."""
    return [int(value) for value in tensor.reshape(-1).tolist()]


def along(vector: Tensor, axis: int, dims: int) -> Tensor:
    """A vector (n,) as a tensor of `dims` axes, of length 1 but for `axis`."""
    return vector.reshape([-1 if i == axis % dims else 1 for i in range(dims)])
