"""Find the activations of a graph: the values that calibration puts a bound on."""

from dataclasses import dataclass

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

GATES = frozenset({"Sigmoid", "HardSigmoid"})
CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization"}
)
CHANNELS_LAST = frozenset({"Gemm", "MatMul", "LayerNormalization"})
BOUND_SUFFIX = "_mmguard_bound"
"""What the names of inserted bounds end in."""

FLOATS = frozenset({None, ir.DataType.FLOAT})


@dataclass(frozen=True)
class Activation:
    """A value that a bound goes on.

    Attributes:
        value: its ONNX name. operator: what makes it; `Mul` where it is x · sigmoid(x).
        axis: of its channels: 1 after a convolution, -1 after a matrix product.
    """

    value: str
    operator: str
    axis: int


def find_activations(model: ir.Model, logits: str) -> list[Activation]:
    """Activations that the logits depend on and that depend on the input, in graph order.

    Args:
        model: the user's graph.
        logits: name of the logits, which is never clipped itself.

    Raises:
        NoActivationError: there is none, or they are clipped already.
    """
    if any(str(name).endswith(BOUND_SUFFIX) for name in model.graph.initializers):
        raise NoActivationError("the model is clipped by mmguard already; calibrate the original network")
    needed, computed = _ancestors(model.graph, logits), _descendants(model.graph)
    found = [
        Activation(str(value.name), node.op_type, _channel_axis(node))
        for node in model.graph
        for value in node.outputs[:1]
        if (node.op_type in ACTIVATIONS or _is_gated(node))
        and node.domain in ("", "ai.onnx")
        and value.name != logits
        and value.name in needed
        and value.name in computed
        and value.dtype in FLOATS
    ]
    if not found:
        operators = ", ".join(sorted({node.op_type for node in model.graph}))
        raise NoActivationError(
            f"the model has no activation to clip: its operators are {operators or 'none'}, "
            f"and a bound goes after one of {', '.join(sorted(ACTIVATIONS))}"
        )
    return found


def _is_gated(node: ir.Node) -> bool:
    """Whether a node is x · sigmoid(x), as exporters write Silu, or x · hard_sigmoid(x)."""
    if node.op_type != "Mul":
        return False
    one, other = node.inputs
    return any(
        gate is not None
        and (producer := gate.producer()) is not None
        and producer.op_type in GATES
        and producer.inputs[0] is x
        for gate, x in ((one, other), (other, one))
    )


def _channel_axis(node: ir.Node) -> int:
    """Where the channels of an activation are, by the nearest layer before it; 1 where there is none."""
    seen, ahead = {id(node)}, [node]
    while ahead:
        producers = [value.producer() for value in ahead.pop(0).inputs if value is not None]
        for producer in (p for p in producers if p is not None and id(p) not in seen):
            if producer.op_type in CHANNELS_LAST:
                return -1
            if producer.op_type in CHANNELS_FIRST:
                return 1
            seen.add(id(producer))
            ahead.append(producer)
    return 1


def _descendants(graph: ir.Graph) -> set[str | None]:
    """Names of the values that depend on an input; the others are constants."""
    computed: set[str | None] = {value.name for value in graph.inputs if value.name not in graph.initializers}
    for node in graph:
        if any(value is not None and value.name in computed for value in node.inputs):
            computed.update(output.name for output in node.outputs)
    return computed


def _ancestors(graph: ir.Graph, logits: str) -> set[str | None]:
    """Names of the values that a value depends on, itself included."""
    needed: set[str | None] = {logits}
    for node in reversed(graph):
        if any(output.name in needed for output in node.outputs):
            needed.update(value.name for value in node.inputs if value is not None)
    return needed
