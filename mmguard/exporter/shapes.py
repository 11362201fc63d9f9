"""Shapes and types of all values, as far as ONNX can infer them."""

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

SMALL = 64
"""Elements of a constant that may be a shape, axes or indices. Inference reads these, but not from other files."""


def inferred(model: ir.Model) -> ir.Model:
    """A copy whose values carry what shapes and types ONNX infers. Weights are shared with the model."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.size <= SMALL:
            value.const_value = ir.tensor(tensor.numpy(), name=tensor.name)
    return ShapeInferencePass()(copy).model
