"""Insert the bounds: one Min node and one bound after each activation, and nothing else (Eq. 2 of the paper)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mmguard.exporter.classifier import Classifier
from mmguard.exporter.load import canonical
from mmguard.exporter.onnx_files import write
from mmguard.exporter.shape_inference import infer_values
from mmguard.exporter.sites import BOUND_SUFFIX, CLIPPED_SUFFIX

MIN_IR_VERSION = 4
"""Lowest IR version of a clipped network. In earlier versions, every initialiser must also be an input of the graph,
but bounds are initialisers that are not inputs."""


def write_clipped(classifier: Classifier, bounds: Mapping[str, npt.NDArray[np.float32]], path: Path) -> None:
    """Write the clipped network.

    Args:
        classifier: the user's model. Its file is read again; this object is not changed.
        bounds: a map from the name of each activation's value to its bound. A bound is float32, with one number per
            channel, and is broadcastable against the value.
        path: ONNX file to write. External weights keep their locations, relative to this file.
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
    """Clip a value from above: every node that read the value now reads min(value, bound).

    If the value is also an output of the graph, that output stays unclipped.

    Args:
        graph: the graph, which is changed.
        value: the value to clip.
        bound: float32, broadcastable against the value.
        dtype: dtype in which the bound is stored, which must be the value's dtype. None to use the value's declared
            dtype, or float32 if no dtype is declared.

    Returns:
        The clipped value.
    """
    producer = value.producer()
    assert producer is not None, "an activation is always the output of a node"
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
    """Convert a bound to the dtype of its value, rounding to the nearest number, as PyTorch does during learning.

    Args:
        bound: float32.
        dtype: a float dtype.

    Returns:
        The bound. A number beyond the dtype's range becomes the dtype's largest finite number, which clips no finite
        value.

    Example:
        >>> in_dtype(np.array([0.5, 1e6], np.float32), ir.DataType.FLOAT16).tolist()
        [0.5, 65504.0]
    """
    limit = np.float64(dtype.max)
    return np.clip(bound.astype(np.float64), -limit, limit).astype(dtype.numpy())
