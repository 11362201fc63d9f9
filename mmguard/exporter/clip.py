"""Insert the bounds: one Min node and one bound tensor after each activation, nothing else changed (paper, Eq. 2)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mmguard.exporter.classifier import Classifier
from mmguard.exporter.load import canonical
from mmguard.exporter.sites import BOUND_SUFFIX

MIN_IR_VERSION = 4
"""Below IR version 4 every initialiser, so also a bound, would have to be an input of the graph."""


def write_clipped(classifier: Classifier, bounds: Mapping[str, npt.NDArray[np.float32]], path: Path) -> None:
    """Write the clipped network.

    Args:
        classifier: the user's model; it is read anew, not changed.
        bounds: by name of the activation's value, float32, one number a channel, broadcastable against the value.
        path: ONNX file to write. External weights keep their locations, relative to it.
    """
    model = canonical(classifier.path)
    for node in list(model.graph):
        bound = bounds.get(str(node.outputs[0].name))
        if bound is not None:
            insert_min(model.graph, node.outputs[0], bound)
    if model.ir_version < MIN_IR_VERSION:
        model.ir_version = MIN_IR_VERSION
        model.graph.inputs[:] = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    ir.save(model, path)


def insert_min(graph: ir.Graph, value: ir.Value, bound: npt.NDArray[np.float32]) -> ir.Value:
    """Clip one value from above: every consumer then reads min(value, bound).

    Where the value is an output of the graph too, that output stays unclipped.

    Args:
        bound: float32, broadcastable against the value.

    Returns:
        The clipped value.
    """
    producer = value.producer()
    assert producer is not None, "an activation is made by a node"
    tensor = ir.Value(
        name=f"{value.name}{BOUND_SUFFIX}",
        shape=ir.Shape(bound.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(bound, name=f"{value.name}{BOUND_SUFFIX}"),
    )
    consumers = list(value.uses())
    node = ir.node("Min", [value, tensor], name=f"{value.name}_mmguard_min")
    clipped = node.outputs[0]
    clipped.name, clipped.shape, clipped.type = f"{value.name}_mmguard_clipped", value.shape, value.type
    graph.insert_after(producer, node)
    graph.register_initializer(tensor)
    for consumer, index in consumers:
        consumer.replace_input_with(index, clipped)
    return clipped
