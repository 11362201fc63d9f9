"""Find the activations of a graph: the values that calibration puts a bound on."""

import onnx_ir as ir

from mmguard.errors import NoActivationError

ACTIVATIONS = frozenset(
    {
        "Celu",
        "Clip",
        "Elu",
        "Gelu",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Relu",
        "Selu",
        "Softplus",
        "Swish",
        "ThresholdedRelu",
    }
)
"""Operators whose output is an activation. Sigmoid, HardSigmoid and Tanh are bounded and gate rather than activate."""

FLOATS = frozenset({None, ir.DataType.FLOAT})


def find_activations(model: ir.Model, logits: str) -> list[tuple[str, str]]:
    """Activations that the logits depend on, in graph order.

    Args:
        model: the user's graph.
        logits: name of the logits, which is never clipped itself.

    Returns:
        (value name, operator) of each.

    Raises:
        NoActivationError: there is none.
    """
    needed = _ancestors(model.graph, logits)
    found = [
        (str(node.outputs[0].name), node.op_type)
        for node in model.graph
        if node.op_type in ACTIVATIONS
        and node.domain in ("", "ai.onnx")
        and node.outputs[0].name != logits
        and node.outputs[0].name in needed
        and node.outputs[0].dtype in FLOATS
    ]
    if not found:
        operators = ", ".join(sorted({node.op_type for node in model.graph}))
        raise NoActivationError(
            f"the model has no activation to clip: its operators are {operators or 'none'}, "
            f"and a bound goes after one of {', '.join(sorted(ACTIVATIONS))}"
        )
    return found


def _ancestors(graph: ir.Graph, logits: str) -> set[str | None]:
    """Names of the values that a value depends on, itself included."""
    needed: set[str | None] = {logits}
    for node in reversed(graph):
        if any(output.name in needed for output in node.outputs):
            needed.update(value.name for value in node.inputs if value is not None)
    return needed
