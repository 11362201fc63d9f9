"""Find the activations of a graph: single operators, and groups of elementwise nodes that compute an activation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from mmguard.errors import ModelError
from mmguard.exporter.sites.curves import BOUNDED, GRID, recognise
from mmguard.exporter.sites.elementwise import PASSING, is_elementwise
from mmguard.exporter.sites.expression import Expression, expressions
from mmguard.exporter.sites.flow import Flow

ACTIVATIONS = BOUNDED | {
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
    "Shrink",
    "Softplus",
    "Softsign",
    "Swish",
    "ThresholdedRelu",
}
"""ONNX operators whose output is an activation."""

CONTRIBUTED = frozenset({"BiasGelu", "FastGelu", "Gelu", "QuickGelu"})
"""Operators of the domain com.microsoft whose output is an activation; ONNX Runtime's optimiser inserts them."""

FUSED = frozenset({"FusedConv", "FusedGemm"})
"""Layers of the domain com.microsoft that include an activation. Their attribute `activation` is its name."""

MAX_EXPRESSIONS = 50_000
"""Largest number of chains of elementwise nodes that are examined in a graph. Each takes about a millisecond."""


@dataclass(frozen=True)
class Candidate:
    """A value that may be an activation.

    Attributes:
        value: the activation's output.
        operator: name of the ONNX operator, or of the function that several nodes compute together.
    """

    value: ir.Value
    operator: str


@dataclass(frozen=True)
class Candidates:
    """The activations of a graph.

    Attributes:
        found: the activations, in the graph's order.
        inside: intermediate values of these activations that are read only within the same activation.
    """

    found: list[Candidate]
    inside: set[ir.Value]


def find_candidates(graph: ir.Graph, flow: Flow) -> Candidates:
    """Find every activation that depends on the input.

    If several nodes compute an activation together, only the output of the last of these nodes is returned.

    Args:
        graph: the user's graph.
        flow: dependencies of the graph.

    Returns:
        The activations.

    Raises:
        ModelError: the graph has more than `MAX_EXPRESSIONS` chains of elementwise nodes.
    """
    found: list[Candidate] = []
    inside: set[ir.Value] = set()
    left = iter(range(MAX_EXPRESSIONS))
    for node in reversed(graph):  # in reverse, so that values inside an activation are known before they are reached
        value = node.outputs[0] if node.outputs else None
        if value is None or value not in flow.computed or value in inside:
            continue
        known = _known_operator(node)
        whole = _widest(_counted(expressions(value, flow), left)) if _may_end(node) else None
        if whole is not None:
            inside.update(_inside(whole[0]))
            known = known if len(whole[0].nodes) == 1 and known else whole[1]
        if known is not None:
            found.append(Candidate(value, known))
    return Candidates(found[::-1], inside)


def _counted(runs: Iterable[Expression], left: Iterator[int]) -> Iterator[Expression]:
    for run in runs:
        if next(left, None) is None:
            raise ModelError(
                f"the model has more than {MAX_EXPRESSIONS} chains of elementwise operators that could each be an "
                "activation, too many to search; simplify the elementwise parts of the model and export it again"
            )
        yield run


def _known_operator(node: ir.Node) -> str | None:
    if node.domain == "com.microsoft" and node.op_type in FUSED:
        fused = node.attributes.get_string("activation", "")
        return fused if fused in ACTIVATIONS else None
    known = ACTIVATIONS if node.domain in ("", "ai.onnx") else CONTRIBUTED if node.domain == "com.microsoft" else ()
    return node.op_type if node.op_type in known else None


def _may_end(node: ir.Node) -> bool:
    return is_elementwise(node) and node.op_type not in PASSING


def _widest(runs: Iterable[Expression]) -> tuple[Expression, str] | None:
    """Return the longest chain of nodes that computes a known activation, and the activation's name."""
    widest = None
    for expression in runs:
        curve = expression(GRID)
        name = None if curve is None else recognise(curve)
        if name is not None:
            widest = expression, name
    return widest


def _inside(expression: Expression) -> set[ir.Value]:
    """Return the intermediate values of an expression that only nodes of the expression read."""
    nodes = set(expression.nodes)
    return {node.outputs[0] for node in expression.nodes[:-1] if {user for user, _ in node.outputs[0].uses()} <= nodes}
