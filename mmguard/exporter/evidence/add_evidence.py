"""Add what the test reads of activations to the original network's runtime graph, so that hardly anything leaves the
device.

The nodes compute what `mmguard.detection.evidence.ActivationEvidence` computes, for all sites at once.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mmguard.bundle.manifest import ACTIVATIONS
from mmguard.detection.distances import SiteGaussian
from mmguard.detection.evidence import ActivationEvidence
from mmguard.detection.ranges import ClassRanges
from mmguard.exporter.add_logits import batch_axis
from mmguard.exporter.evidence.pool import Nodes, pooled

SIZES_AS_INPUT = 13
"""First opset in which Split takes the sizes as an input instead of an attribute."""


def add_evidence(model: ir.Model, evidence: ActivationEvidence, logits: str) -> ir.Model:
    """Add the squared distances at S sites and the excess, float32 (N, S + 1), to a runtime graph as its last output.

    Args:
        model: the original network, which outputs its logits; it is changed.
        evidence: the evidence.
        logits: name of the logits.

    Returns:
        The model that was passed in.
    """
    graph, nodes = model.graph, Nodes(model.graph)
    features = pooled(model, nodes, evidence.sites)
    logits_value = next(value for value in graph.outputs if value.name == logits)
    decisions = nodes.node("ArgMax", [logits_value], axis=1, keepdims=0)
    groups = nodes.node("Gather", [nodes.constant(evidence.gaussians[0].groups), decisions])
    distances = _distances(model, nodes, _joined(nodes, features), groups, evidence.gaussians)
    means = [each for site, each in zip(evidence.sites, features, strict=True) if site.feature == "mean"]
    excess = _excess(nodes, _joined(nodes, means), groups, evidence.ranges)
    read = nodes.node("Concat", [distances, excess], axis=1)
    read.name = ACTIVATIONS
    read.type, read.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([batch_axis(graph), len(features) + 1])
    graph.outputs.append(read)
    return model


def _distances(
    model: ir.Model, nodes: Nodes, features: ir.Value, groups: ir.Value, gaussians: Sequence[SiteGaussian]
) -> ir.Value:
    """Add the squared distances (N, S); features (N, total channels), groups (N,)."""
    means, scales = (
        nodes.node("Gather", [nodes.constant(_side_by_side(each)), groups])
        for each in ([own.means for own in gaussians], [1 / own.scales for own in gaussians])
    )
    apart = nodes.node("Mul", [nodes.node("Sub", [features, means]), scales])
    parts = _split(model, nodes, apart, [each.scales.shape[1] for each in gaussians])
    along = [
        nodes.node("MatMul", [part, nodes.constant(_float(each.directions))])
        for part, each in zip(parts, gaussians, strict=True)
    ]
    terms = nodes.node("Concat", [apart, *along], axis=1)
    squares = nodes.node("Mul", [terms, terms])
    total = nodes.node("MatMul", [squares, nodes.constant(_signs(gaussians))])
    return nodes.node("Relu", [total])  # rounding could make a distance negative


def _excess(nodes: Nodes, features: ir.Value, groups: ir.Value, ranges: Sequence[ClassRanges]) -> ir.Value:
    """Add the excess beyond the ranges of the class (N, 1); features (N, total channels), groups (N,)."""
    medians, widths, shares = (
        nodes.node("Gather", [nodes.constant(_side_by_side(each)), groups])
        for each in (
            [own.medians for own in ranges],
            [own.widths for own in ranges],
            [1 / own.sizes for own in ranges],
        )
    )
    away = nodes.node("Abs", [nodes.node("Sub", [features, medians])])
    beyond = nodes.node("Mul", [nodes.node("Relu", [nodes.node("Sub", [away, widths])]), shares])
    channels = sum(own.medians.shape[1] for own in ranges)
    return nodes.node("MatMul", [beyond, nodes.constant(np.ones((channels, 1), np.float32))])


def _joined(nodes: Nodes, features: Sequence[ir.Value]) -> ir.Value:
    return features[0] if len(features) == 1 else nodes.node("Concat", features, axis=1)


def _split(model: ir.Model, nodes: Nodes, value: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
    if len(sizes) == 1:
        return [value]
    if model.opset_imports[""] >= SIZES_AS_INPUT:
        return nodes.nodes("Split", [value, nodes.constant(np.array(sizes))], len(sizes), axis=1)
    return nodes.nodes("Split", [value], len(sizes), axis=1, split=list(sizes))


def _signs(gaussians: Sequence[SiteGaussian]) -> npt.NDArray[np.float32]:
    """Return the matrix that adds up the squares of each site, and subtracts those along its directions."""
    channels = np.repeat(np.arange(len(gaussians)), [each.scales.shape[1] for each in gaussians])
    directions = np.repeat(np.arange(len(gaussians)), [each.directions.shape[1] for each in gaussians])
    columns = np.concatenate([channels, directions])
    signs = np.zeros((len(columns), len(gaussians)), np.float32)
    signs[np.arange(len(columns)), columns] = np.where(np.arange(len(columns)) < len(channels), 1, -1)
    return signs


def _side_by_side(arrays: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
    """Join the arrays (G, C) of all sites to one (G, total channels)."""
    return _float(np.concatenate(arrays, axis=1))


def _float(array: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return array.astype(np.float32)
