"""Find activations that quantisation hides: values that a QuantizeLinear rectifies in place of a removed Relu.

ONNX Runtime's quantiser removes a Relu before an asymmetric QuantizeLinear if the lowest integer stands for 0, because
the QuantizeLinear turns every negative number into 0 anyway. The input of the QuantizeLinear is then an activation that
is not yet rectified, and a bound on this input has the same effect as a bound after the Relu.
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
"""The lowest integer of each quantised dtype."""

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
"""Operators whose output is never negative if their inputs are never negative."""


def add_rectified(graph: ir.Graph, flow: Flow, candidates: Candidates) -> Candidates:
    """Add to the activations the input of each QuantizeLinear that acts as a Relu, unless that input is rectified.

    Args:
        graph: the user's graph.
        flow: dependencies of the graph.
        candidates: the activations found so far.

    Returns:
        All activations, in the graph's order.
    """
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
    """Add a node's outputs to `rectified` if they cannot be negative.

    The outputs of some operators are never negative. The outputs of some other operators are not negative if the
    inputs are rectified.
    """
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
    """Return whether a QuantizeLinear rectifies its input: the lowest integer stands for 0 in every channel.

    A node without a zero point has the zero point 0 with dtype uint8.
    """
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        return node.attributes.get_int("output_dtype", ir.DataType.UINT8.value) in (0, ir.DataType.UINT8.value)
    tensor = ir.convenience.get_const_tensor(zero)
    return tensor is not None and tensor.dtype in LEAST and bool((tensor.numpy() == LEAST[tensor.dtype]).all())
