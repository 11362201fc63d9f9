"""Define how much a network's logits may differ between two runtimes.

The lower the numeric precision, the larger the difference may be.
"""

import onnx_ir as ir

FLOAT, HALF, QUANTISED = 1e-4, 1e-2, 5e-2
"""Largest difference allowed, relative to the largest logit, for float32, half-precision and quantised networks.

Runtimes may use a precision higher than half precision between operators. In a quantised network, two runtimes may
round a number to different integers, which changes the input of every later layer."""
HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


DYNAMIC = 0.25
"""Largest difference allowed between two batches in one runtime, for a model that computes its quantisation range from
each batch.

In one small network of this kind, logits differed between batches by up to 5 % of the largest logit, and up to 18 of
400 labels differed. Every one of these labels belonged to an input whose two largest logits were nearly equal."""


def batch_tolerance(model: ir.Model) -> float:
    """Return the largest difference allowed between the outputs for the same input in two different batches.

    Args:
        model: the user's graph.

    Returns:
        The tolerance, relative to the largest output.
    """
    dynamic = any(node.op_type.startswith("DynamicQuantize") for node in model.graph)
    return DYNAMIC if dynamic else tolerance(model)


def tolerance(model: ir.Model) -> float:
    """Return the largest difference allowed between the logits that two runtimes compute.

    Args:
        model: the user's graph.

    Returns:
        The tolerance, relative to the largest logit.
    """
    graph = model.graph
    if any(node.op_type in QUANTISERS for node in graph):
        return QUANTISED
    values = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    casts = {node.attributes.get_int("to", 0) for node in graph if node.op_type == "Cast"}
    halves = any(value.dtype in HALVES for value in values) or bool(casts & {kind.value for kind in HALVES})
    return HALF if halves else FLOAT
