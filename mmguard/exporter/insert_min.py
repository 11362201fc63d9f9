"""Insert the bounds: one Min node and one bound tensor after each activation, nothing else changed (paper, Eq. 2)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mmguard.exporter.classifier import Classifier
from mmguard.exporter.load import canonical
from mmguard.exporter.onnx_files import write
from mmguard.exporter.sites import BOUND_SUFFIX, CLIPPED_SUFFIX
from mmguard.exporter.values import infer_values

MIN_IR_VERSION = 4
"""Below IR version 4 every initialiser, so also a bound, would have to be an input of the graph."""


def write_clipped(classifier: Classifier, bounds: Mapping[str, npt.NDArray[np.float32]], path: Path) -> None:
    """Write the clipped network.

    Args:
        classifier: the user's model; it is read anew, not changed.
        bounds: by name of the activation's value, float32, one number a channel, broadcastable against the value.
        path: ONNX file to write. External weights keep their locations, relative to it.
    """
    model = canonical(classifier.path, classifier.complaint is not None)
    types = infer_values(model)
    for node in list(model.graph):
        name = str(node.outputs[0].name)
        if name in bounds:
            insert_min(model.graph, node.outputs[0], bounds[name], types[name].dtype)
    if model.ir_version < MIN_IR_VERSION:
        model.ir_version = MIN_IR_VERSION
        model.graph.inputs[:] = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    write(model, path, classifier.path)


def insert_min(
    graph: ir.Graph, value: ir.Value, bound: npt.NDArray[np.float32], dtype: ir.DataType | None = None
) -> ir.Value:
    """Clip one value from above: every consumer then reads min(value, bound).

    Where the value is an output of the graph too, that output stays unclipped.

    Args:
        bound: float32, broadcastable against the value.
        dtype: of the value, and so of the bound as it is written; None takes the value's own, or float32.

    Returns:
        The clipped value.
    """
    producer = value.producer()
    assert producer is not None, "an activation is made by a node"
    dtype = dtype or value.dtype or ir.DataType.FLOAT
    tensor = ir.Value(
        name=f"{value.name}{BOUND_SUFFIX}",
        shape=ir.Shape(bound.shape),
        type=ir.TensorType(dtype),
        const_value=ir.tensor(in_dtype(bound, dtype), dtype, name=f"{value.name}{BOUND_SUFFIX}"),
    )
    consumers = list(value.uses())
    node = ir.node("Min", [value, tensor], name=f"{value.name}_mmguard_min")
    clipped = node.outputs[0]
    clipped.name, clipped.shape, clipped.type = f"{value.name}{CLIPPED_SUFFIX}", value.shape, value.type
    graph.insert_after(producer, node)
    graph.register_initializer(tensor)
    for consumer, index in consumers:
        consumer.replace_input_with(index, clipped)
    return clipped


def in_dtype(bound: npt.NDArray[np.float32], dtype: ir.DataType) -> npt.NDArray[Any]:
    """A bound as the value's dtype holds it: the nearest number, as PyTorch rounds where the bound is learned.

    What lies beyond the dtype's range becomes its largest finite number, which every finite value respects.
    """
    limit = np.float64(dtype.max)
    return np.clip(bound.astype(np.float64), -limit, limit).astype(dtype.numpy())
