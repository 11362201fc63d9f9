"""Determine the channel axes of each kind of layer."""

import onnx_ir as ir

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "DeformConv", "FusedConv", "QLinearConv"})
PRODUCTS = frozenset(
    {"FusedMatMul", "MatMul", "MatMulInteger", "MatMulNBits", "QLinearMatMul", "DynamicQuantizeMatMul"}
)
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
ATTENTION = frozenset({"Attention", "MultiHeadAttention", "QAttention"})
POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"})
FIRST_NORMS = frozenset({"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LRN"})
LAST_NORMS = frozenset(
    {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"}
)

LAYERS = CONVOLUTIONS | PRODUCTS | RECURRENT | ATTENTION | {"Einsum", "FusedGemm", "Gemm"}
"""Operators that mix channels using weights."""
STOPS = LAYERS | POOLS | FIRST_NORMS | LAST_NORMS
"""Operators from which the channel axis of an input can be determined. The search for layers stops there."""

Axes = frozenset[int]
"""The axes of a value that may be its channel axis: one axis, or several if a Flatten joined them."""


def input_axes(node: ir.Node, index: int, rank: int | None, weighted: bool) -> Axes:
    """Return the axes of a layer's input that the layer treats as channels.

    Args:
        node: a node.
        index: index of the input.
        rank: rank of that input; None if the rank is not known, in which case the last axis is returned as -1.
        weighted: whether another input contains weights. If not, the node may be a product of two computed values.

    Returns:
        The axes; empty if they cannot be determined from the node.
    """
    kind, last = node.op_type, -1 if rank is None else rank - 1
    if kind in CONVOLUTIONS | POOLS | FIRST_NORMS:
        return frozenset({1}) if index == 0 else frozenset()
    if kind in LAST_NORMS:
        return _normalised(node, rank) if index == 0 else frozenset()
    if kind in RECURRENT | ATTENTION:
        return frozenset({last}) if index == 0 else frozenset()
    if not weighted:
        return frozenset()
    if kind in ("FusedGemm", "Gemm"):
        transposed = node.attributes.get_int("transA" if index == 0 else "transB", 0)
        return frozenset({index if transposed else 1 - index}) if index < 2 else frozenset()
    if kind in PRODUCTS:
        return frozenset({last if index == 0 else last - 1})
    return _contracted(node, index) if kind == "Einsum" else frozenset()


def output_axes(node: ir.Node, rank: int | None, weighted_first: bool) -> Axes:
    """Return the axes of a layer's output that contain its channels.

    Args:
        node: a node.
        rank: rank of the output; None if the rank is not known, in which case the last axis is returned as -1.
        weighted_first: whether the first input of a product contains the weights.

    Returns:
        The axes; empty if they cannot be determined from the node.
    """
    kind, last = node.op_type, -1 if rank is None else rank - 1
    if kind in CONVOLUTIONS | POOLS | FIRST_NORMS | {"FusedGemm", "Gemm"}:
        return frozenset({1})
    if kind in LAST_NORMS:
        return _normalised(node, rank)
    if kind in PRODUCTS and weighted_first:
        return frozenset({last - 1})
    return frozenset({last}) if kind in STOPS else frozenset()


def _normalised(node: ir.Node, rank: int | None) -> Axes:
    axis = node.attributes.get_int("axis", -1)
    return frozenset({axis}) if rank is None else frozenset(range(axis % rank, rank))


def _contracted(node: ir.Node, index: int) -> Axes:
    """Return the axes of an Einsum node's input over which the node sums."""
    inputs, _, output = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    labels = inputs.split(",")[index]
    if not output or "." in labels:
        return frozenset()
    return frozenset(axis for axis, label in enumerate(labels) if label not in output)
