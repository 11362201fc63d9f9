"""Add the distances of activations to the original network's runtime graph, so that hardly anything leaves the device.

The nodes compute what `mmguard.detection.distances.SiteGaussian` computes, for all sites at once.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mmguard.bundle.manifest import DISTANCES
from mmguard.detection.distances import ActivationEvidence, SiteGaussian
from mmguard.exporter.add_logits import batch_axis
from mmguard.exporter.evidence.pool import Nodes, pooled

SIZES_AS_INPUT = 13
"""First opset in which Split takes the sizes as an input instead of an attribute."""


def add_distances(model: ir.Model, evidence: ActivationEvidence, logits: str) -> ir.Model:
    """Add the squared distances, float32 (N, S), to a runtime graph as its last output.

    Args:
        model: the original network, which outputs its logits; it is changed.
        evidence: the sites and their Gaussians.
        logits: name of the logits.

    Returns:
        The model that was passed in.
    """
    graph, nodes = model.graph, Nodes(model.graph)
    logits_value = next(value for value in graph.outputs if value.name == logits)
    features = pooled(model, nodes, evidence.sites)
    joined = features[0] if len(features) == 1 else nodes.node("Concat", features, axis=1)
    own = _means(nodes, logits_value, evidence.gaussians)
    scales = np.concatenate([each.scales for each in evidence.gaussians])
    apart = nodes.node("Sub", [nodes.node("Mul", [joined, nodes.constant(_float(1 / scales))]), own])
    parts = _split(model, nodes, apart, [len(each.scales) for each in evidence.gaussians])
    along = [
        nodes.node("MatMul", [part, nodes.constant(_float(each.directions))])
        for part, each in zip(parts, evidence.gaussians, strict=True)
    ]
    terms = nodes.node("Concat", [apart, *along], axis=1)
    squares = nodes.node("Mul", [terms, terms])
    total = nodes.node("MatMul", [squares, nodes.constant(_signs(evidence.gaussians))])
    distances = nodes.node("Relu", [total])  # rounding could make a distance negative
    distances.name = DISTANCES
    distances.type, distances.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([batch_axis(graph), len(features)])
    graph.outputs.append(distances)
    return model


def _means(nodes: Nodes, logits: ir.Value, gaussians: Sequence[SiteGaussian]) -> ir.Value:
    """Add the means (N, total channels) of each input's own class."""
    decisions = nodes.node("ArgMax", [logits], axis=1, keepdims=0)
    groups = nodes.node("Gather", [nodes.constant(gaussians[0].groups), decisions])
    means = _float(np.concatenate([each.means for each in gaussians], axis=1))
    return nodes.node("Gather", [nodes.constant(means), groups])


def _split(model: ir.Model, nodes: Nodes, value: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
    if len(sizes) == 1:
        return [value]
    if model.opset_imports[""] >= SIZES_AS_INPUT:
        return nodes.nodes("Split", [value, nodes.constant(np.array(sizes))], len(sizes), axis=1)
    return nodes.nodes("Split", [value], len(sizes), axis=1, split=list(sizes))


def _signs(gaussians: Sequence[SiteGaussian]) -> npt.NDArray[np.float32]:
    """Return the matrix that adds up the squares of each site, and subtracts those along its directions."""
    channels = np.repeat(np.arange(len(gaussians)), [len(each.scales) for each in gaussians])
    directions = np.repeat(np.arange(len(gaussians)), [each.directions.shape[1] for each in gaussians])
    columns = np.concatenate([channels, directions])
    signs = np.zeros((len(columns), len(gaussians)), np.float32)
    signs[np.arange(len(columns)), columns] = np.where(np.arange(len(columns)) < len(channels), 1, -1)
    return signs


def _float(array: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return array.astype(np.float32)
