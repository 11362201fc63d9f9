"""How closely two runtimes agree on a network: coarser numbers round where finer ones do not."""

import onnx_ir as ir

FLOAT, HALF, QUANTISED = 1e-4, 1e-2, 5e-2
"""Largest difference of a logit, relative to the largest. Runtimes keep more than half precision between operators; and
where one rounds to another integer than the other, the later layers of a quantised network see another number."""
HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


DYNAMIC = 0.25
"""The same between one runtime's batches where a model quantises by the range of each batch. A small network so
quantised changed by 5 % of its largest logit, and up to 18 of 400 labels, which lay near a tie."""


def batch_tolerance(model: ir.Model) -> float:
    """What difference to allow between answers to one input in two batches."""
    dynamic = any(node.op_type.startswith("DynamicQuantize") for node in model.graph)
    return DYNAMIC if dynamic else tolerance(model)


def tolerance(model: ir.Model) -> float:
    """What difference to allow between two runtimes on a model."""
    graph = model.graph
    if any(node.op_type in QUANTISERS for node in graph):
        return QUANTISED
    values = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    casts = {node.attributes.get_int("to", 0) for node in graph if node.op_type == "Cast"}
    halves = any(value.dtype in HALVES for value in values) or bool(casts & {kind.value for kind in HALVES})
    return HALF if halves else FLOAT
