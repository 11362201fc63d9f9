"""Distinguish activations from gates and divisors, which scale other values."""

from collections.abc import Iterator

import onnx_ir as ir

from mmguard.exporter.sites.candidates import Candidate
from mmguard.exporter.sites.curves import BOUNDED
from mmguard.exporter.sites.flow import Flow
from mmguard.exporter.sites.layers import STOPS

MAY_GATE = BOUNDED | {"QuantizeLinear"}
"""Operators that can be gates or activations, depending on the nodes that read their output."""

HANDING_ON = frozenset(
    {"Cast", "DequantizeLinear", "Dropout", "Expand", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze"}
)


def gates(candidate: Candidate, flow: Flow) -> bool:
    """Return whether a candidate is a gate: a value that is multiplied by an independent value before the next layer.

    Args:
        candidate: a possible activation.
        flow: dependencies of the graph.
    """
    if candidate.operator not in MAY_GATE:
        return False
    products = [node for node in _readers(candidate.value) if node.op_type == "Mul"]
    if not products:
        return False
    own = flow.descendants([candidate.value])
    return any(value in flow.computed and value not in own for node in products for value in node.inputs)


def divides(value: ir.Value) -> bool:
    """Return whether a value is used only as a divisor.

    Args:
        value: a value of the graph.
    """
    uses = list(_final_uses(value))
    return bool(uses) and all(node.op_type == "Div" and index == 1 for node, index in uses)


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that read the value, or that read a value computed from this value before the next layer."""
    ahead, seen = [value], {value}
    while ahead:
        for node, _ in ahead.pop().uses():
            yield node
            if node.op_type not in STOPS:
                ahead += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)


def _final_uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    ahead = [value]
    while ahead:
        for node, index in ahead.pop().uses():
            if node.op_type in HANDING_ON and index == 0:
                ahead.append(node.outputs[0])
            else:
                yield node, index
