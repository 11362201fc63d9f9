"""Where quantised values return to floats, so that they may stay floats in between and carry a gradient."""

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
"""Operators that move whole numbers and do not change them."""

_RETURNING = {"DequantizeLinear": 1, "MatMulInteger": 2, "ConvInteger": 2, "Shape": 1, "Size": 1}
"""Operators to which whole numbers in floats are as good as integers, and at how many of their inputs."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def let_gradients_through(steps: Sequence[Step], output: str) -> list[Step]:
    """Replaces the operators that quantise by those that give whole numbers in floats, where nobody can tell.

    Args:
        steps: in order. output: the value that they lead to, which keeps its dtype.
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
