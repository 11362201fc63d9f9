"""What shape inference knows of a graph's values."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(logging.CRITICAL)  # what is not inferred is None

Shape = tuple[int | str | None, ...]
"""One length an axis: a number, the name of a dynamic one, or None where nothing is known."""

SMALL = 64
"""Elements of a constant that may be a shape, axes or indices. Inference reads these, but not from other files."""

_STAND_INS = {
    ("", "GroupNormalization"): ("Identity", 1),
    ("com.microsoft", "BiasGelu"): ("Add", 2),
    ("com.microsoft", "DequantizeLinear"): ("Cast", 1),
    ("com.microsoft", "FastGelu"): ("Identity", 1),
    ("com.microsoft", "Gelu"): ("Identity", 1),
    ("com.microsoft", "QuantizeLinear"): ("Identity", 1),
    ("com.microsoft", "QuickGelu"): ("Identity", 1),
    ("ai.onnx.ml", "Binarizer"): ("Identity", 1),
    ("ai.onnx.ml", "Imputer"): ("Identity", 1),
    ("ai.onnx.ml", "Normalizer"): ("Cast", 1),
    ("ai.onnx.ml", "Scaler"): ("Cast", 1),
    ("ai.onnx.ml", "ZipMap"): ("Identity", 1),
}
"""Operators that ONNX's inference does not know: which one of the same shape it is given (a Cast gives float32), and
with how many inputs."""


@dataclass(frozen=True)
class ValueType:
    """What is known of one value.

    Attributes:
        dtype: None where it is not known. shape: None where not even the rank is.
    """

    dtype: ir.DataType | None = None
    shape: Shape | None = None


def annotated(model: ir.Model) -> ir.Model:
    """A copy whose values carry all that is known of them. Weights are shared with the model."""
    copy, known = model.clone(), infer_values(model)
    for node in copy.graph:
        for value in node.outputs:
            found = known[str(value.name)]
            if value.dtype is None and found.dtype is not None:
                value.dtype = found.dtype
            if value.shape is None and found.shape is not None:
                value.shape = ir.Shape(found.shape)
    return copy


def mend_shapes(model: ir.Model) -> None:
    """Put right declared shapes that inference from the input and weights contradicts, and give outputs theirs."""
    bare = model.clone()
    for node in bare.graph:
        for value in node.outputs:
            value.shape = None
    known = infer_values(bare)
    for node in model.graph:
        for value in node.outputs:
            found, declared = known[str(value.name)], _shape(value)
            if found.dtype is None or found.shape is None:
                continue
            if _contradicts(declared, found.shape) if declared is not None else value.is_graph_output():
                value.shape, value.dtype = ir.Shape(found.shape), value.dtype or found.dtype


def _contradicts(declared: Shape, found: Shape) -> bool:
    pairs = zip(declared, found, strict=False)
    return len(declared) != len(found) or any(isinstance(b, int) and isinstance(a, int) and a != b for a, b in pairs)


def infer_values(model: ir.Model) -> Mapping[str, ValueType]:
    """Dtype and shape by value name, by ONNX's shape inference. The model stays as it is."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.size <= SMALL:
            value.const_value = ir.tensor(tensor.numpy(), name=tensor.name)
    for node in copy.graph:
        _stand_in(node)
    _infer(copy)
    while _rank_reshapes(copy.graph):
        _infer(copy)
    values = [*copy.graph.inputs, *copy.graph.initializers.values(), *(v for node in copy.graph for v in node.outputs)]
    return {str(value.name): ValueType(value.dtype, _shape(value)) for value in values}


def _infer(model: ir.Model) -> None:
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def _stand_in(node: ir.Node) -> None:
    if node.domain == "com.microsoft" and node.op_type in ("FusedConv", "FusedGemm"):
        node.domain, node.op_type = "", node.op_type.removeprefix("Fused")
        node.resize_inputs(min(3, len(node.inputs)))
        for name in [name for name in node.attributes if name.startswith("activation")]:
            del node.attributes[name]
    if (node.domain, node.op_type) in _STAND_INS:
        node.op_type, inputs = _STAND_INS[node.domain, node.op_type]
        node.domain = ""
        node.attributes.clear()
        node.resize_inputs(min(inputs, len(node.inputs)))
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT.value)


def _rank_reshapes(graph: ir.Graph) -> bool:
    """Gives each Reshape of an unknown result at least the rank, which is the length of the shape that it takes."""
    found = False
    for node in graph:
        target = node.inputs[1] if node.op_type == "Reshape" and len(node.inputs) > 1 else None
        if target is None or node.outputs[0].shape is not None or target.shape is None:
            continue
        if len(target.shape) == 1 and isinstance(target.shape[0], int):
            node.outputs[0].shape = ir.Shape([None] * target.shape[0])
            found = True
    return found


def _shape(value: ir.Value) -> Shape | None:
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)
