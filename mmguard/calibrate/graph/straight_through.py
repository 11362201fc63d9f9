"""Store quantised values as floats until they are dequantised, so that gradients can pass through the quantisation."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from mmguard.calibrate.graph.operators import OPERATORS, STRAIGHT_THROUGH
from mmguard.calibrate.graph.step import Step

_PASSING = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that only move or copy numbers."""

_RETURNING = {"DequantizeLinear": 1, "MatMulInteger": 2, "ConvInteger": 2, "Shape": 1, "Size": 1}
"""Operators that accept whole numbers stored as floats. Each operator is mapped to the number of inputs, counted from
the first input, that may be stored as floats."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def let_gradients_through(steps: Sequence[Step], output: str) -> list[Step]:
    """Replace quantising operators with variants that return whole numbers as floats instead of integers.

    An operator is replaced only if all steps that read its output accept floats, so no result changes.

    Args:
        steps: steps in execution order.
        output: ONNX name of the value that the steps compute; its dtype is not changed.

    Returns:
        The steps, with some operators replaced.
    """
    readers = defaultdict(list)
    for step in steps:
        for position, name in enumerate(step.inputs):
            readers[name].append((step, position))
    returning: set[str] = set()
    for step in reversed(steps):
        for name in step.outputs:
            if name != output and readers[name] and all(_accepts(*reader, returning) for reader in readers[name]):
                returning.add(name)
    return [_replaced(step) if step.outputs[0] in returning else step for step in steps]


def _accepts(step: Step, position: int, returning: set[str]) -> bool:
    """Return whether input `position` of a step may be floats, given that the values in `returning` are floats."""
    operator = _bare(step)
    if operator == "Cast":
        return step.node.attribute("to", 0) in _FLOATS
    if operator in _PASSING:
        return (position == 0 or operator == "Concat") and returning.issuperset(filter(None, step.outputs))
    returns = operator not in ("MatMulInteger", "ConvInteger") or step.outputs[0] in returning
    return position < _RETURNING.get(operator, 0) and returns


def _bare(step: Step) -> str:
    return step.node.operator.removeprefix("com.microsoft.")


def _replaced(step: Step) -> Step:
    stand_in = OPERATORS.get((STRAIGHT_THROUGH, _bare(step)))
    return step if stand_in is None else replace(step, operator=stand_in)
