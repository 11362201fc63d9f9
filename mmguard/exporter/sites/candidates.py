"""The activations of a graph: operators that are one, and elementwise nodes that compute one together."""

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
"""ONNX's operators whose output is an activation."""

CONTRIBUTED = frozenset({"BiasGelu", "FastGelu", "Gelu", "QuickGelu"})
"""The same of com.microsoft, which ONNX Runtime's optimiser writes."""

FUSED = frozenset({"FusedConv", "FusedGemm"})
"""Layers of com.microsoft with an activation of their own: its name is in their attribute `activation`."""

MAX_EXPRESSIONS = 50_000
"""Runs of elementwise nodes that are looked at in one graph; each takes about a millisecond."""


@dataclass(frozen=True)
class Candidate:
    """A value that may be an activation.

    Attributes:
        value: what the network goes on with. operator: ONNX's, or that of the function that its nodes compute together.
    """

    value: ir.Value
    operator: str


@dataclass(frozen=True)
class Candidates:
    """The activations of a graph.

    Attributes:
        found: in the graph's order. inside: values on the way to one of them, which no other node reads.
    """

    found: list[Candidate]
    inside: set[ir.Value]


def find_candidates(graph: ir.Graph, flow: Flow) -> Candidates:
    """Every activation that depends on the input, each on its final value alone.

    Raises:
        ModelError: the graph has more runs of elementwise nodes than `MAX_EXPRESSIONS`.
    """
    found: list[Candidate] = []
    inside: set[ir.Value] = set()
    left = iter(range(MAX_EXPRESSIONS))
    for node in reversed(graph):  # so that what is inside an activation is known when it is reached
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
                f"the model has more than {MAX_EXPRESSIONS} runs of elementwise operators, any of which could be an "
                "activation; export it without such long chains of them"
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
    """The longest run of nodes that computes a known activation, and its name."""
    widest = None
    for expression in runs:
        curve = expression(GRID)
        name = None if curve is None else recognise(curve)
        if name is not None:
            widest = expression, name
    return widest


def _inside(expression: Expression) -> set[ir.Value]:
    """What only the expression itself reads."""
    nodes = set(expression.nodes)
    return {node.outputs[0] for node in expression.nodes[:-1] if {user for user, _ in node.outputs[0].uses()} <= nodes}
