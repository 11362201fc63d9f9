"""Rectifiers that quantisation hides: a QuantizeLinear that stands for the Relu before it.

ONNX Runtime's quantiser removes a Relu before an asymmetric QuantizeLinear, whose least integer then stands for 0, so
that whatever is negative becomes 0 there. What that node takes is an activation but for the rectification; bounds on it
act as they would after it.
"""

import onnx_ir as ir

from mmguard.exporter.sites.candidates import Candidate, Candidates
from mmguard.exporter.sites.expression import sampled
from mmguard.exporter.sites.flow import Flow
from mmguard.exporter.sites.layers import POOLS

LEAST = {
    ir.DataType.UINT4: 0,
    ir.DataType.UINT8: 0,
    ir.DataType.UINT16: 0,
    ir.DataType.INT4: -8,
    ir.DataType.INT8: -128,
    ir.DataType.INT16: -32768,
}
"""The least integer of each type that numbers are quantised to."""

POSITIVE = frozenset({"Abs", "ArgMax", "Exp", "Softmax", "Sqrt"})
"""Operators whose output is never negative."""

KEEPING = POOLS | {
    "Add",
    "Cast",
    "Concat",
    "DepthToSpace",
    "DequantizeLinear",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Max",
    "Min",
    "Mul",
    "Pad",
    "QuantizeLinear",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Sum",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
}
"""Operators that make nothing negative of what is not."""


def add_rectified(graph: ir.Graph, flow: Flow, candidates: Candidates) -> Candidates:
    """The candidates and, where no activation precedes one, the inputs of the QuantizeLinear that rectify."""
    found = {each.value: each for each in candidates.found}
    rectified = set(found) | candidates.inside | {v for v in flow.computed if v.producer() is None}
    for node in graph:
        _mark(node, rectified, flow)
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value in flow.computed and value not in rectified and _rectifies(node):
            found[value] = Candidate(value, "QuantizeLinear")
            rectified.update((value, node.outputs[0]))
    return Candidates(sorted(found.values(), key=lambda each: flow.place(each.value)), candidates.inside)


def _mark(node: ir.Node, rectified: set[ir.Value], flow: Flow) -> None:
    """Adds the node's outputs where they follow an activation, or the input itself, with no layer between."""
    sources = [value for value in node.inputs if value in flow.computed]
    kept = node.op_type in KEEPING and sources and rectified.issuperset(sources)
    if kept or node.op_type in POSITIVE or _is_square(node):
        rectified.update(node.outputs)


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        exponent = sampled(node.inputs[1])
        return exponent is not None and bool((exponent % 2 == 0).all())
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _rectifies(node: ir.Node) -> bool:
    """Whether the least integer stands for 0, in every channel; 0 of uint8 is the default."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        return node.attributes.get_int("output_dtype", ir.DataType.UINT8.value) in (0, ir.DataType.UINT8.value)
    tensor = ir.convenience.get_const_tensor(zero)
    return tensor is not None and tensor.dtype in LEAST and bool((tensor.numpy() == LEAST[tensor.dtype]).all())
