"""Where in a graph the logits are, and which of its outputs are computed from them alone.

Exporters and users end a classifier in many ways: a softmax, one sigmoid, an arg max, the k best, a map of names. What
they have in common: a decision is made of one value (N, K), and no layer comes after it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from mmguard.errors import NotClassifierError, OptionError
from mmguard.exporter.labels import complaint, require_single_label
from mmguard.exporter.sites.layers import LAYERS
from mmguard.exporter.values import annotated

OVER_CLASSES = {"Softmax": (-1, 1), "LogSoftmax": (-1, 1), "Hardmax": (-1, 1), "ArgMax": (-1, 1), "TopK": (-1, 1)}
"""Operators that decide between classes, and the axes of (N, K) over which they do."""
OVER_EACH = frozenset({"Sigmoid"})
DECISIONS = frozenset({*OVER_CLASSES, *OVER_EACH})
RESHAPES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
MAX_CANDIDATES = 100
"""Values at the end of a graph that are tried as logits. Classifiers have a few."""
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Scores:
    """The logits, as the user's graph has them.

    Attributes:
        value: ONNX name of a value (N, K), or (N, 1) where one sigmoid tells two classes apart.
        dtype: of that value. classes: K where it is static.
        derived: those of the graph's outputs that depend on the input through this value alone.
        head: operators between it and these outputs, in the graph's order.
    """

    value: str
    dtype: ir.DataType
    classes: int | None
    derived: tuple[str, ...]
    head: tuple[str, ...]

    @property
    def one_column(self) -> bool:
        """Whether the value s is (N, 1): then the two classes have the logits (0, s)."""
        return self.classes == 1


def find_scores(model: ir.Model, name: str | None = None) -> Scores:
    """Find the logits: what the outputs are decided from, else the one output that can be logits itself.

    Args:
        model: the user's graph.
        name: the value to take, where the user names it.

    Raises:
        NotClassifierError: no value, or more than one, could be the logits; or the model is multi-label.
        OptionError: the named value is not there or cannot be logits.
    """
    graph = annotated(model).graph
    values = {str(value.name): value for value in _values(graph)}
    if name is not None:
        return _scores(graph, _named(values, name))
    end = _end(graph)
    decided = [value for value in _decided(graph) if value in end]
    candidates = [*decided, *(v for v in dict.fromkeys(graph.outputs) if v not in decided and _is_scores(v))]
    if len(candidates) > MAX_CANDIDATES:
        raise NotClassifierError(f"{len(candidates)} values could be the logits; choose one with --logits NAME")
    reached = {str(value.name): _reached(graph, value) for value in candidates}
    found = [value for value in candidates if _explains(graph, value, reached[str(value.name)])]
    first = [v for v in found if not any(v is not other and v.name in reached[str(other.name)] for other in found)]
    first = [value for value in first if value in decided] or first
    if len(first) != 1:
        choices = [str(value.name) for value in first]
        raise NotClassifierError(_several(choices) if choices else complaint(graph, end))
    require_single_label(graph, first[0], reached[str(first[0].name)])
    return _scores(graph, first[0])


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from (output for node in graph for output in node.outputs)


def _named(values: Mapping[str, ir.Value], name: str) -> ir.Value:
    if name not in values:
        close = [value for value in values if name.lower() in value.lower()][:5]
        hint = f"; values with that in their name: {', '.join(close)}" if close else ""
        raise OptionError(f"--logits {name!r}: the model computes no value of that name{hint}")
    value = values[name]
    if value.dtype not in FLOATS or (value.shape is not None and len(value.shape) != 2):
        raise OptionError(f"--logits {name!r} is {value.dtype} of shape {value.shape}; logits are floats (N, K)")
    return value


def _decided(graph: ir.Graph) -> list[ir.Value]:
    """Values (N, K) that something decides between, in the graph's order; (N, 1) where it is a sigmoid."""
    found: dict[str, ir.Value] = {}
    for node in graph:
        if node.op_type not in DECISIONS or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
            continue
        if node.op_type in OVER_CLASSES and node.attributes.get_int("axis", _axis(node)) not in (-1, 1):
            continue
        value = _unshaped(node.inputs[0])
        if value.producer() is None or value.dtype not in FLOATS | {None} or not _is_matrix(value):
            continue
        if node.op_type in OVER_EACH or _columns(value) != 1:
            found.setdefault(str(value.name), value)
    return list(found.values())


def _axis(node: ir.Node) -> int:
    """The default axis: of ArgMax the batch's, of the others the classes'."""
    return 0 if node.op_type == "ArgMax" else -1


def _unshaped(value: ir.Value) -> ir.Value:
    """The value (N, K) that was only reshaped to this one; the value itself where there is none."""
    at = value
    while not _is_matrix(at) and (node := at.producer()) is not None and node.op_type in RESHAPES:
        if node.inputs[0] is None:
            break
        at = node.inputs[0]
    return at if _is_matrix(at) else value


def _is_matrix(value: ir.Value) -> bool:
    return value.shape is None or len(value.shape) == 2


def _columns(value: ir.Value) -> int | None:
    last = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return last if isinstance(last, int) else None


def _is_scores(value: ir.Value) -> bool:
    return value.dtype in FLOATS and _is_matrix(value) and _columns(value) != 1 and value.producer() is not None


def _end(graph: ir.Graph) -> list[ir.Value]:
    """Values that outputs may be decided from: those after which no layer comes, on a way to an output."""
    computed: set[str | None] = {value.name for value in graph.inputs}
    for node in graph:
        if any(value is not None and value.name in computed for value in node.inputs):
            computed |= {value.name for value in node.outputs}
    found = dict.fromkeys(value for value in graph.outputs if value.name in computed)
    for node in reversed(graph):
        if any(value in found for value in node.outputs) and not _is_layer(node, computed):
            found |= dict.fromkeys(v for v in node.inputs if v is not None and v.name in computed)
    return [value for value in found if value.producer() is not None]


def _reached(graph: ir.Graph, source: ir.Value) -> set[str]:
    """Names of the values that depend on the input through one value alone and without a layer, itself included."""
    reached, computed = {str(source.name)}, {value.name for value in graph.inputs}
    for node in graph:
        inputs = {value.name for value in node.inputs if value is not None}
        if not inputs & (computed | reached):
            continue  # a constant
        names = {str(value.name) for value in node.outputs}
        computed |= names
        varying = inputs & computed
        if varying <= reached and not _is_layer(node, computed):
            reached |= names
    return reached


def _is_layer(node: ir.Node, computed: set[str | None]) -> bool:
    """Whether a node mixes by weights. After it a value is no answer any more: the classifier goes on."""
    weights = [value.shape for value in node.inputs if value is not None and value.name not in computed]
    return node.op_type in LAYERS or any(shape is not None and _is_table(shape) for shape in weights)


def _is_table(shape: ir.Shape) -> bool:
    """Of more than one axis longer than 1."""
    return sum(size != 1 for size in shape) > 1


def _explains(graph: ir.Graph, value: ir.Value, reached: set[str]) -> bool:
    return any(output.name in reached for output in graph.outputs)


def _scores(graph: ir.Graph, value: ir.Value) -> Scores:
    reached = _reached(graph, value)
    derived = tuple(str(output.name) for output in graph.outputs if output.name in reached)
    needed = _ancestors(graph, derived)
    head = [
        node.op_type
        for node in graph
        if node.op_type not in RESHAPES and {str(o.name) for o in node.outputs} & needed & (reached - {value.name})
    ]
    dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype  # after an operator that inference does not know
    return Scores(str(value.name), dtype, _columns(value), derived, tuple(head))


def _ancestors(graph: ir.Graph, names: Sequence[str]) -> set[str]:
    needed = set(names)
    for node in reversed(graph):
        if needed & {str(value.name) for value in node.outputs}:
            needed |= {str(value.name) for value in node.inputs if value is not None}
    return needed


def _several(names: Sequence[str]) -> str:
    return f"{' and '.join(map(repr, names))} could each be the logits of a classifier; choose one with --logits NAME"
