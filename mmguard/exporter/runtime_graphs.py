"""Write the runtime graphs: the ONNX files that the guard runs.

The original and the clipped network return the logits in addition to the outputs of the user's model. The head computes
the derived outputs from the logits alone. Every output of a corrected row is therefore what the model itself would have
computed from the corrected logits.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mmguard.detection.evidence import ActivationEvidence
from mmguard.exporter.add_logits import add_logits, add_weight, batch_axis, find_value, name_nodes
from mmguard.exporter.classifier import Classifier
from mmguard.exporter.evidence.add_evidence import add_evidence
from mmguard.exporter.load import canonical
from mmguard.exporter.onnx_files import write_alone

FORMS = ("original", "clipped")
INITIALISERS_ALONE = 4
"""First IR version in which initialisers need not be inputs of the graph."""
TO_COLUMN = np.array([[-1], [1]], np.float32)
"""Matrix by which the logits of two classes are multiplied to get a single column. This is either the column from which
the logits were computed, or a column that leads to the same decision."""


def write_runtime_graphs(
    folder: Path, classifier: Classifier, evidence: ActivationEvidence | None = None
) -> dict[str, str]:
    """Write the runtime graphs. If a network returns all that the guard reads, its own file is its runtime graph.

    Args:
        folder: bundle folder with `original.onnx` and `clipped.onnx`.
        classifier: the user's model.
        evidence: what the original network's runtime graph computes of its activations; None for nothing.

    Returns:
        The path of each runtime graph within the bundle, by name: `original`, `clipped` and, if outputs are derived
        from the logits, `head`.
    """
    runtime_graphs = {form: f"{form}.onnx" for form in FORMS}
    output = classifier.output
    direct = output.logits in output.names
    if direct and not output.derived and evidence is None:
        return runtime_graphs
    (folder / "runtime").mkdir()
    for form in FORMS:
        added = evidence if form == "original" else None
        if direct and added is None:
            continue
        source = folder / runtime_graphs[form]
        model = canonical(source, classifier.complaint is not None)
        if not direct:
            model = add_logits(model, classifier.logits_source)
        if added is not None:
            model = add_evidence(model, added, output.logits)
        model.ir_version = max(model.ir_version, INITIALISERS_ALONE)
        runtime_graphs[form] = f"runtime/{form}.onnx"
        write_alone(model, folder / runtime_graphs[form], source)
    if output.derived:
        runtime_graphs["head"] = "runtime/head.onnx"
        write_alone(_head(classifier), folder / runtime_graphs["head"], classifier.path)
    return runtime_graphs


def _head(classifier: Classifier) -> ir.Model:
    """Return the part of the user's graph from the logits, float32 (N, K), to the derived outputs."""
    model, output = canonical(classifier.path, classifier.complaint is not None), classifier.output
    graph = model.graph
    given = _replace_logits(graph, classifier)
    graph.inputs[:] = [given]
    graph.outputs[:] = [value for value in graph.outputs if value.name in output.derived]
    model.ir_version = max(model.ir_version, INITIALISERS_ALONE)
    return RemoveUnusedNodesPass()(model).model


def _replace_logits(graph: ir.Graph, classifier: Classifier) -> ir.Value:
    """Replace the logits with a new input of the graph, and return that input."""
    source = classifier.logits_source
    given = ir.Value(name=classifier.output.logits, type=ir.TensorType(ir.DataType.FLOAT))
    given.shape = ir.Shape([batch_axis(graph), 2 if source.one_column else source.classes])
    value, nodes = find_value(graph, source.value), []
    if source.one_column:
        nodes.append(ir.node("MatMul", [given, add_weight(graph, TO_COLUMN)]))
    nodes.append(ir.node("Cast", [nodes[-1].outputs[0] if nodes else given], {"to": source.dtype.value}))
    name_nodes(nodes)
    start = nodes[-1].outputs[0]
    start.type, start.shape = ir.TensorType(source.dtype), value.shape
    value.replace_all_uses_with(start, replace_graph_outputs=True)
    if given.name != source.value:  # if that value is an output, the output's name must not change
        value.name, start.name = f"{source.value}_mmguard_replaced", source.value
    else:
        value.name = f"{source.value}_mmguard_replaced"
    graph.insert_before(graph[0], nodes)
    return given
