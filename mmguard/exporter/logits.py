"""The logits as an output of the graph, under one name and form, whatever the user's graph does with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mmguard.exporter.classifier import LOGITS, Classifier
from mmguard.exporter.onnx_files import write_alone
from mmguard.exporter.scores import Scores

TO_CLASSES = np.array([[0, 1]], np.float32)
"""From the one column s to the logits (0, s) of two classes."""


def scored(classifier: Classifier) -> ir.Model:
    """The canonical graph with the value `classifier.output.logits`, float32 (N, K)."""
    if classifier.output.logits in classifier.output.names:
        return classifier.model
    return add_logits(classifier.model.clone(), classifier.scores)


@contextmanager
def scored_file(classifier: Classifier) -> Iterator[Path]:
    """A file of that graph, which is gone afterwards; the user's own where that has the logits."""
    if classifier.output.logits in classifier.output.names:
        yield classifier.path
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scored.onnx"
        write_alone(scored(classifier), path, classifier.path)
        yield path


def add_logits(model: ir.Model, scores: Scores) -> ir.Model:
    """Add the logits, float32 (N, K), as a last output; changes the model."""
    graph = model.graph
    nodes = [ir.node("Cast", [find_value(graph, scores.value)], {"to": ir.DataType.FLOAT.value})]
    if scores.one_column:
        nodes.append(ir.node("MatMul", [nodes[-1].outputs[0], add_weight(graph, TO_CLASSES)]))
    name_nodes(nodes)
    result = nodes[-1].outputs[0]
    result.name, result.type = LOGITS, ir.TensorType(ir.DataType.FLOAT)
    result.shape = ir.Shape([batch_axis(graph), 2 if scores.one_column else scores.classes])
    graph.extend(nodes)
    graph.outputs.append(result)
    return model


def find_value(graph: ir.Graph, name: str) -> ir.Value:
    """The value of that name, which a node makes."""
    return next(output for node in graph for output in node.outputs if output.name == name)


def add_weight(graph: ir.Graph, array: npt.NDArray[np.float32]) -> ir.Value:
    """A constant of the graph."""
    name = "mmguard_columns"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
    graph.register_initializer(value)
    return value


def name_nodes(nodes: list[ir.Node]) -> None:
    """Name nodes that mmguard adds, and what they give."""
    for node in nodes:
        node.name = f"mmguard_{node.op_type.lower()}"
        node.outputs[0].name = f"{node.name}_out"


def batch_axis(graph: ir.Graph) -> int | str:
    """The batch's axis: a number where the user's input has a fixed one."""
    (value,) = (value for value in graph.inputs if value.name not in graph.initializers)
    size = value.shape[0] if value.shape is not None else None
    return size if isinstance(size, int) else "mmguard_batch"
