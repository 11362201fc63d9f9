"""The layers of a network, and on which axis each has its channels."""

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
"""Operators that mix channels by weights."""
STOPS = LAYERS | POOLS | FIRST_NORMS | LAST_NORMS
"""Operators that say where the channels of what they take are."""

Axes = frozenset[int]
"""Axes of a value that its channels may lie on: one, but after a Flatten the several that it joined."""


def input_axes(node: ir.Node, index: int, rank: int | None, weighted: bool) -> Axes:
    """Axes of one of a layer's inputs that it takes for channels; none where it does not say.

    Args:
        index: which input. rank: of that input, None where it is not known: then the last axis is -1.
        weighted: whether another of its inputs holds weights, so that this is no product of two computed values.
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
    """Axes of a layer's output that hold the channels that it made; none where it does not say.

    Args:
        rank: of the output, None where it is not known.
        weighted_first: whether the first input of a product holds the weights.
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
    """Axes of an Einsum's input that are summed over."""
    inputs, _, output = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    labels = inputs.split(",")[index]
    if not output or "." in labels:
        return frozenset()
    return frozenset(axis for axis, label in enumerate(labels) if label not in output)
