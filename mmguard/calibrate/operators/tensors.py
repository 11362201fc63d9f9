"""Between ONNX's values and PyTorch's: dtypes, constants, devices."""

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
}
"""The element types that PyTorch can calculate in; of others it has little more than storage."""


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


def aligned(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on one device: those made from shapes are on the CPU and join the data on its device.

    Single numbers stay, because PyTorch takes them from the CPU in any operation.
    """
    for tensor in tensors:
        if not tensor.is_cpu:
            return tuple(t.to(tensor.device) if t.is_cpu and t.dim() else t for t in tensors)
    return tensors


def integers(tensor: Tensor) -> list[int]:
    """The values of a shape-like tensor (n,) or () as a list."""
    return [int(value) for value in tensor.reshape(-1).tolist()]
