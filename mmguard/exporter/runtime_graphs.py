"""The forms that the guard runs: each gives the logits beside the user's own outputs.

A third, the head, computes from logits alone what the user's outputs are computed from: so that a corrected row is in
every output what the model itself would have made of the corrected logits.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mmguard.exporter.classifier import Classifier
from mmguard.exporter.load import canonical
from mmguard.exporter.logits import add_logits, add_weight, batch_axis, find_value, name_nodes
from mmguard.exporter.onnx_files import write_alone

FORMS = ("original", "clipped")
TO_COLUMN = np.array([[-1], [1]], np.float32)
"""From the logits of two classes to the one column that they came from, or that gives the same decision."""


def write_runtime_graphs(folder: Path, classifier: Classifier) -> dict[str, str]:
    """Write the runtime graphs; a network whose own output is the logits is its own runtime graph.

    Args:
        folder: bundle folder with `original.onnx` and `clipped.onnx`.
        classifier: the user's model.

    Returns:
        File of each form, `original` and `clipped`, and of the `head` where outputs are derived from the logits.
    """
    runtime_graphs = {form: f"{form}.onnx" for form in FORMS}
    output = classifier.output
    direct = output.logits in output.names
    if direct and not output.derived:
        return runtime_graphs
    (folder / "runtime").mkdir()
    if not direct:
        for form in FORMS:
            source = folder / runtime_graphs[form]
            model = add_logits(canonical(source, classifier.complaint is not None), classifier.scores)
            runtime_graphs[form] = f"runtime/{form}.onnx"
            write_alone(model, folder / runtime_graphs[form], source)
    if output.derived:
        runtime_graphs["head"] = "runtime/head.onnx"
        write_alone(_head(classifier), folder / runtime_graphs["head"], classifier.path)
    return runtime_graphs


def _head(classifier: Classifier) -> ir.Model:
    """The part of the user's graph after the logits: takes them, float32 (N, K), and gives the derived outputs."""
    model, output = canonical(classifier.path, classifier.complaint is not None), classifier.output
    graph = model.graph
    given = _replace_scores(graph, classifier)
    graph.inputs[:] = [given]
    graph.outputs[:] = [value for value in graph.outputs if value.name in output.derived]
    model.ir_version = max(model.ir_version, 4)  # where initialisers need not be inputs
    return RemoveUnusedNodesPass()(model).model


def _replace_scores(graph: ir.Graph, classifier: Classifier) -> ir.Value:
    """Let all that reads the scores read what logits from outside give; returns the value that takes these."""
    scores, given = classifier.scores, ir.Value(name=classifier.output.logits, type=ir.TensorType(ir.DataType.FLOAT))
    given.shape = ir.Shape([batch_axis(graph), 2 if scores.one_column else scores.classes])
    value, nodes = find_value(graph, scores.value), []
    if scores.one_column:
        nodes.append(ir.node("MatMul", [given, add_weight(graph, TO_COLUMN)]))
    nodes.append(ir.node("Cast", [nodes[-1].outputs[0] if nodes else given], {"to": scores.dtype.value}))
    name_nodes(nodes)
    start = nodes[-1].outputs[0]
    start.type, start.shape = ir.TensorType(scores.dtype), value.shape
    value.replace_all_uses_with(start, replace_graph_outputs=True)
    if given.name != scores.value:  # an output of that name stays one
        value.name, start.name = f"{scores.value}_mmguard_replaced", scores.value
    else:
        value.name = f"{scores.value}_mmguard_replaced"
    graph.insert_before(graph[0], nodes)
    return given
