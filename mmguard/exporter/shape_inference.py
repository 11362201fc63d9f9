"""Infer the dtypes and shapes of a graph's values with ONNX's shape inference."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

# If inference fails, a value's shape simply stays None, so ONNX's messages are not logged.
logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(logging.CRITICAL)

Shape = tuple[int | str | None, ...]
"""A shape, with one entry per axis: a fixed length, the name of a dynamic axis, or None if neither is known."""

SMALL = 64
"""Largest number of elements of a constant that mmguard loads because it may be a shape, axes or indices.

Shape inference needs the values of such constants but does not read external files."""

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
"""Replacements for operators that ONNX's shape inference does not support. Each entry is an operator whose output has
the same shape, and the number of inputs to pass to this operator. Cast replaces operators whose output is float32."""


@dataclass(frozen=True)
class ValueType:
    """The dtype and shape of a value, as far as they are known.

    Attributes:
        dtype: the dtype; None if it is not known.
        shape: the shape; None if not even the rank is known.
    """

    dtype: ir.DataType | None = None
    shape: Shape | None = None


def annotated(model: ir.Model) -> ir.Model:
    """Copy a model and annotate its values with the inferred dtypes and shapes.

    Args:
        model: the model, which is not changed.

    Returns:
        The copy, which shares its weights with the model.
    """
    copy, known = model.clone(), infer_values(model)
    for node in copy.graph:
        for value in node.outputs:
            found = known[str(value.name)]
            if value.dtype is None and found.dtype is not None:
                value.dtype = found.dtype
            if value.shape is None and found.shape is not None:
                value.shape = ir.Shape(found.shape)
    return copy


def correct_shapes(model: ir.Model) -> None:
    """Correct declared shapes that contradict the inferred shapes, and declare the shapes of outputs without a shape.

    Args:
        model: the model, which is changed.
    """
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
    """Infer the dtype and shape of every value.

    Args:
        model: the model, which is not changed.

    Returns:
        The dtype and shape of each value, as far as they are known, by the value's name.
    """
    copy = model.clone()
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.size <= SMALL:
            own = tensor.numpy().copy()  # a view would keep the file mapped, which then cannot be closed
            value.const_value = ir.tensor(own, name=tensor.name)
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
    """Declare the rank of each Reshape output that has no shape.

    The rank is the number of elements in the node's input `shape`.

    Returns:
        Whether a rank was declared.
    """
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
