"""Pool activations: the mean of every channel over all positions, as nodes of the graph and as numbers."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mmguard.exporter.add_logits import find_value
from mmguard.exporter.classifier import EVIDENCE, Classifier
from mmguard.exporter.equality import run
from mmguard.exporter.load import canonical
from mmguard.exporter.onnx_files import write_alone
from mmguard.exporter.shape_inference import infer_values
from mmguard.runtime.batches import run_session
from mmguard.runtime.session import new_session
from mmguard.types import EvidenceSite

AXES_AS_INPUT = 18
"""First opset in which ReduceMean takes its axes as an input instead of an attribute."""
TRIED = 3
"""Number of inputs on which a site is tried."""

Array = npt.NDArray[np.float32]


class Nodes:
    """Adds nodes with unique names to a graph.

    Args:
        graph: the graph, which is changed.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._count = 0

    def constant(self, array: npt.NDArray[np.generic]) -> ir.Value:
        """Add a constant.

        Args:
            array: the constant.

        Returns:
            Its value in the graph.
        """
        name = self._name()
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(
        self, operator: str, inputs: Sequence[ir.Value], after: ir.Node | None = None, **attributes: int | Sequence[int]
    ) -> ir.Value:
        """Add a node with one output.

        Args:
            operator: name of the ONNX operator.
            inputs: the node's inputs.
            after: the node after which the new node is inserted; None appends it to the graph.
            attributes: the node's attributes.

        Returns:
            The node's output.
        """
        (output,) = self.nodes(operator, inputs, 1, after, **attributes)
        return output

    def nodes(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        outputs: int,
        after: ir.Node | None = None,
        **attributes: int | Sequence[int],
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs.

        Args:
            operator: name of the ONNX operator.
            inputs: the node's inputs.
            outputs: number of outputs.
            after: the node after which the new node is inserted; None appends it to the graph.
            attributes: the node's attributes.

        Returns:
            The node's outputs.
        """
        node = ir.node(operator, list(inputs), attributes, num_outputs=outputs, name=self._name())
        for output in node.outputs:
            output.name = self._name()
        if after is None:
            self.graph.append(node)
        else:
            self.graph.insert_after(after, node)
        return node.outputs

    def _name(self) -> str:
        self._count += 1
        return f"{EVIDENCE}{self._count}"


def pooled(model: ir.Model, nodes: Nodes, sites: Sequence[EvidenceSite]) -> list[ir.Value]:
    """Add the features of each site to a graph: channel means (N, C) float32, or their signed roots.

    The nodes follow the activation directly, so that ONNX Runtime can release the activation early.

    Args:
        model: the model.
        nodes: adds nodes to the model's graph.
        sites: the sites.

    Returns:
        The features of each site.
    """
    types = infer_values(model)
    means: dict[str, ir.Value] = {}
    features = []
    for site in sites:
        if site.value not in means:
            shape = types[site.value].shape
            means[site.value] = _mean(model, nodes, site, len(shape or ()))
        features.append(_root(nodes, means[site.value]) if site.feature == "root" else means[site.value])
    return features


def _mean(model: ir.Model, nodes: Nodes, site: EvidenceSite, rank: int) -> ir.Value:
    value = find_value(model.graph, site.value)
    producer = value.producer()
    mean = value
    over = [axis for axis in range(1, rank) if axis != site.axis % rank]
    if over and site.axis == 1:  # keeps ONNX Runtime's blocked layout, unlike ReduceMean
        mean = nodes.node("GlobalAveragePool", [value], producer)
        mean = nodes.node("Flatten", [mean], mean.producer(), axis=1)
    elif over and model.opset_imports[""] >= AXES_AS_INPUT:
        mean = nodes.node("ReduceMean", [value, nodes.constant(np.array(over))], producer, keepdims=0)
    elif over:
        mean = nodes.node("ReduceMean", [value], producer, axes=over, keepdims=0)
    return nodes.node("Cast", [mean], mean.producer(), to=ir.DataType.FLOAT.value)


def _root(nodes: Nodes, mean: ir.Value) -> ir.Value:
    """Add the signed root of the means: √max(x, 0) − √max(−x, 0), because opset 8 has no Sign."""
    above, below = (nodes.node("Relu", [each]) for each in (mean, nodes.node("Neg", [mean])))
    return nodes.node("Sub", [nodes.node("Sqrt", [above]), nodes.node("Sqrt", [below])])


def pooled_features(
    classifier: Classifier, sites: Sequence[EvidenceSite], x: Array
) -> tuple[list[EvidenceSite], list[Array]]:
    """Compute the features of clean inputs with ONNX Runtime.

    Args:
        classifier: the user's model.
        sites: the sites to try.
        x: (n, ...) float32 clean inputs.

    Returns:
        The sites whose activations have one row for each input and finite features, and the features (n, C) of each.
    """
    if not sites:
        return [], []
    model = canonical(classifier.path, classifier.complaint is not None)
    features = pooled(model, Nodes(model.graph), sites)
    for feature in features:
        feature.type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs[:] = list(dict.fromkeys(features))
    with TemporaryDirectory(prefix="mmguard-") as folder:
        path = Path(folder) / "pooled.onnx"
        write_alone(model, path, classifier.path)
        tried = run_session(new_session(path), [str(each.name) for each in features], x[:TRIED])
        usable = [place for place, each in enumerate(tried) if each.ndim == 2 and len(each) == len(x[:TRIED])]
        found = [run(path, x, str(features[place].name)) for place in usable]
    finite = [place for place, each in enumerate(found) if len(each) == len(x) and np.isfinite(each).all()]
    return [sites[usable[place]] for place in finite], [found[place] for place in finite]
