"""Interpret a group of elementwise nodes as one function of a single value, in whatever way they are arranged."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mmguard.exporter.sites.elementwise import PASSING, Array, apply, arguments, data_inputs, is_elementwise
from mmguard.exporter.sites.flow import Flow

LONGEST = 48
"""Largest number of nodes in an expression. The tanh form of Gelu has 10 nodes, or 28 if each result is quantised."""

MOST = 100
"""Largest number of constants that are evaluated to compute one constant."""

SHAPING = PASSING | {"Reshape", "Transpose"}


@dataclass(frozen=True)
class Expression:
    """A value, expressed as a function of another value.

    Attributes:
        root: the argument of the function.
        nodes: the elementwise nodes that compute the value from `root` and constants, in the graph's order.
    """

    root: ir.Value
    nodes: tuple[ir.Node, ...]

    def __call__(self, x: Array) -> Array | None:
        """Evaluate the function.

        Args:
            x: (P, 1) float64 points.

        Returns:
            The values of the function at x: (P, 1); or (P, 3), for three of the channels, if constants differ between
            channels. None if the value of a constant is not known.
        """
        values: dict[ir.Value, Array] = {self.root: x}
        with np.errstate(all="ignore"):
            for node in self.nodes:
                inputs = [values[v] if v in values else sampled(v) for v in arguments(node)]
                if _is_unknown(node, inputs):
                    return None
                values[node.outputs[0]] = apply(node, inputs)
        return values[self.nodes[-1].outputs[0]]


def expressions(value: ir.Value, flow: Flow) -> Iterator[Expression]:
    """Find every way to express a value as an elementwise function of one other value.

    Args:
        value: a value of the graph.
        flow: dependencies of the graph.

    Yields:
        The expressions, shortest first.
    """
    ahead, nodes = {value}, list[ir.Node]()
    while ahead and len(nodes) < LONGEST:
        last = max(ahead, key=flow.place)
        node = last.producer()
        if node is None or not is_elementwise(node):
            return
        ahead.remove(last)
        ahead.update(source for source in data_inputs(node) if source in flow.computed)
        nodes.append(node)
        if len(ahead) == 1:
            yield Expression(next(iter(ahead)), tuple(reversed(nodes)))


def sampled(value: ir.Value | None) -> Array | None:
    """Sample a constant, which may be computed from other constants by elementwise operators and changes of shape.

    Args:
        value: a value of the graph.

    Returns:
        An array (1,) with the constant's first number if all numbers are the same, else an array (3,) with its first,
        middle and last number. None if the value is not a constant, cannot be evaluated, or is computed from more than
        `MOST` values.
    """
    return _sampled(value, {})


def _sampled(value: ir.Value | None, known: dict[ir.Value, Array | None]) -> Array | None:
    """Return the sample of a constant, and store this sample in `known`. At most `MOST` constants are sampled."""
    if value is None:
        return None
    if value not in known:
        known[value] = None
        if len(known) <= MOST:
            known[value] = _computed(value, known)
    return known[value]


def _computed(value: ir.Value, known: dict[ir.Value, Array | None]) -> Array | None:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return None if tensor.dtype is ir.DataType.STRING else _sample(np.asarray(tensor.numpy()).reshape(-1))
    node = value.producer()
    if node is None or not (node.op_type in SHAPING or is_elementwise(node)):
        return None
    if node.op_type == "DequantizeLinear":
        return _dequantised(node, known)
    if node.op_type in SHAPING:
        return _sampled(node.inputs[0], known)
    inputs = [_sampled(v, known) for v in arguments(node)]
    with np.errstate(all="ignore"):
        return None if _is_unknown(node, inputs) else apply(node, inputs)


def _sample(numbers: Array) -> Array | None:
    if numbers.size == 0:
        return None
    places = [0] if (numbers == numbers[0]).all() else [0, numbers.size // 2, -1]
    return numbers[places].astype(np.float64)


def _is_unknown(node: ir.Node, inputs: list[Array | None]) -> bool:
    """Return whether the value of one of the node's inputs is not known."""
    return any(array is None and value is not None for array, value in zip(inputs, arguments(node), strict=True))


def _dequantised(node: ir.Node, known: dict[ir.Value, Array | None]) -> Array | None:
    x, scale, zero = (_sampled(v, known) for v in [*node.inputs, None][:3])
    producer = None if node.inputs[0] is None else node.inputs[0].producer()
    if producer is not None and producer.op_type == "QuantizeLinear":
        return x  # QuantizeLinear is treated as passing its input on unchanged
    if x is None or scale is None:
        return None
    return scale * (x if zero is None else x - zero)
