"""Add the logits to a graph as an output that has the same name, dtype and rank for every model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mmguard.exporter.classifier import LOGITS, Classifier
from mmguard.exporter.find_logits import LogitsSource
from mmguard.exporter.onnx_files import write_alone

TO_CLASSES = np.array([[0, 1]], np.float32)
"""Matrix by which a single column s is multiplied to get the logits (0, s) of two classes."""


def with_logits(classifier: Classifier) -> ir.Model:
    """Return the model's canonical graph with its logits, float32 (N, K), as the output `classifier.output.logits`.

    Args:
        classifier: the user's model, which is not changed.

    Returns:
        The model's own graph if it already has that output, else a copy with the output added.
    """
    if classifier.output.logits in classifier.output.names:
        return classifier.model
    return add_logits(classifier.model.clone(), classifier.logits_source)


@contextmanager
def file_with_logits(classifier: Classifier) -> Iterator[Path]:
    """Provide an ONNX file of the user's model that outputs the logits. A temporary file is deleted on exit.

    Args:
        classifier: the user's model.

    Yields:
        The path of the user's own file if that file outputs the logits, else the path of a temporary file.
    """
    if classifier.output.logits in classifier.output.names:
        yield classifier.path
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "with_logits.onnx"
        write_alone(with_logits(classifier), path, classifier.path)
        yield path


def add_logits(model: ir.Model, source: LogitsSource) -> ir.Model:
    """Add the logits, float32 (N, K), to a model as its last output.

    Args:
        model: the model, which is changed.
        source: where the logits are in the graph.

    Returns:
        The model that was passed in.
    """
    graph = model.graph
    nodes = [ir.node("Cast", [find_value(graph, source.value)], {"to": ir.DataType.FLOAT.value})]
    if source.one_column:
        nodes.append(ir.node("MatMul", [nodes[-1].outputs[0], add_weight(graph, TO_CLASSES)]))
    name_nodes(nodes)
    result = nodes[-1].outputs[0]
    result.name, result.type = LOGITS, ir.TensorType(ir.DataType.FLOAT)
    result.shape = ir.Shape([batch_axis(graph), 2 if source.one_column else source.classes])
    graph.extend(nodes)
    graph.outputs.append(result)
    return model


def find_value(graph: ir.Graph, name: str) -> ir.Value:
    """Return the node output with the given name.

    Args:
        graph: the graph.
        name: ONNX name of a value that a node computes.
    """
    return next(output for node in graph for output in node.outputs if output.name == name)


def add_weight(graph: ir.Graph, array: npt.NDArray[np.float32]) -> ir.Value:
    """Return a new constant named `mmguard_columns` that has been added to the graph.

    Args:
        graph: the graph, which is changed.
        array: the constant's value.
    """
    name = "mmguard_columns"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
    graph.register_initializer(value)
    return value


def name_nodes(nodes: list[ir.Node]) -> None:
    """Set the names of new nodes and of their outputs.

    Args:
        nodes: the new nodes, each with exactly one output.
    """
    for node in nodes:
        node.name = f"mmguard_{node.op_type.lower()}"
        node.outputs[0].name = f"{node.name}_out"


def batch_axis(graph: ir.Graph) -> int | str:
    """Return the length of the input's batch axis if the length is fixed, else a name for this dynamic axis.

    Args:
        graph: a graph with one input.
    """
    (value,) = (value for value in graph.inputs if value.name not in graph.initializers)
    size = value.shape[0] if value.shape is not None else None
    return size if isinstance(size, int) else "mmguard_batch"
