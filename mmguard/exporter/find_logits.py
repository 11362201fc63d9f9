"""Find the logits in a graph, and the outputs that are computed from the logits alone.

Classifiers end in many ways: with a softmax, a single sigmoid, an arg max, a top k, or a map from class names to
probabilities. In each case, the decision is derived from one value (N, K), and no layer comes after that value.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from mmguard.errors import NotClassifierError, OptionError
from mmguard.exporter.other_tasks import no_logits_message, require_single_label
from mmguard.exporter.shape_inference import annotated
from mmguard.exporter.sites.layers import LAYERS

OVER_CLASSES = frozenset({"ArgMax", "Hardmax", "LogSoftmax", "Softmax", "TopK"})
"""Operators that choose between classes when they are applied along the class axis."""
OVER_EACH = frozenset({"Sigmoid"})
DECISIONS = OVER_CLASSES | OVER_EACH
RESHAPES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
MAX_CANDIDATES = 100
"""Largest number of values at the end of a graph that are examined as possible logits. Classifiers have only a few such
values."""
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class LogitsSource:
    """Where the logits are in the user's graph.

    Attributes:
        value: ONNX name of the logits: a value (N, K), or (N, 1) if a single sigmoid decides between two classes.
        dtype: dtype of `value`.
        classes: number of columns of `value`: K, or 1 for a single sigmoid; None if the number is dynamic.
        derived: names of the graph's outputs that depend on the input only through `value`.
        head: operators between `value` and the derived outputs, in the graph's order.
    """

    value: str
    dtype: ir.DataType
    classes: int | None
    derived: tuple[str, ...]
    head: tuple[str, ...]

    @property
    def one_column(self) -> bool:
        """Whether the value is a single column s, (N, 1). If so, the logits of the two classes are (0, s)."""
        return self.classes == 1


def find_logits(model: ir.Model, name: str | None = None) -> LogitsSource:
    """Find the logits: the value from which the outputs are derived, or else the only output that can be the logits.

    Args:
        model: the user's graph.
        name: name of the logits; None to search for them.

    Returns:
        Where the logits are in the graph.

    Raises:
        NotClassifierError: no value, or more than one, could be the logits; or the model is multi-label.
        OptionError: the named value does not exist or cannot be the logits.
    """
    graph = annotated(model).graph
    values = {str(value.name): value for value in _values(graph)}
    if name is not None:
        return _source(graph, _named(values, name))
    end = _end(graph)
    decided = [value for value in _decided(graph) if value in end]
    candidates = [*decided, *(v for v in dict.fromkeys(graph.outputs) if v not in decided and _may_be_logits(v))]
    if len(candidates) > MAX_CANDIDATES:
        raise NotClassifierError(f"{len(candidates)} values could be the logits; choose one with --logits NAME")
    reached = {str(value.name): _reached(graph, value) for value in candidates}
    found = [value for value in candidates if _explains(graph, reached[str(value.name)])]
    first = [v for v in found if not any(v is not other and v.name in reached[str(other.name)] for other in found)]
    first = [value for value in first if value in decided] or first
    if len(first) != 1:
        choices = [str(value.name) for value in first]
        raise NotClassifierError(_several(choices) if choices else no_logits_message(graph, end))
    require_single_label(graph, first[0], reached[str(first[0].name)])
    return _source(graph, first[0])


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from (output for node in graph for output in node.outputs)


def _named(values: Mapping[str, ir.Value], name: str) -> ir.Value:
    if name not in values:
        close = [value for value in values if name.lower() in value.lower()][:5]
        hint = f"; values with similar names: {', '.join(close)}" if close else ""
        raise OptionError(f"--logits {name!r}: the model computes no value with that name{hint}")
    value = values[name]
    if value.dtype not in FLOATS or (value.shape is not None and len(value.shape) != 2):
        raise OptionError(
            f"--logits {name!r} has dtype {value.dtype} and shape {value.shape}; pass the name of a float "
            "value of shape (N, K)"
        )
    return value


def _decided(graph: ir.Graph) -> list[ir.Value]:
    """Return the values that decision operators read, in the graph's order: (N, K), or (N, 1) before a sigmoid."""
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
    """Return the operator's default axis: the batch axis for ArgMax, the class axis for the others."""
    return 0 if node.op_type == "ArgMax" else -1


def _unshaped(value: ir.Value) -> ir.Value:
    """Return the value (N, K) from which `value` was reshaped, or `value` itself if there is no such value."""
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


def _may_be_logits(value: ir.Value) -> bool:
    return value.dtype in FLOATS and _is_matrix(value) and _columns(value) != 1 and value.producer() is not None


def _end(graph: ir.Graph) -> list[ir.Value]:
    """Return the values from which an output may be derived, because no layer lies between them and the output."""
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
    """Return the names of `source` and of all values computed from `source` and constants alone, without a layer."""
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
    """Return whether a node is a layer: it mixes channels using weights. A layer's input cannot be the logits."""
    weights = [value.shape for value in node.inputs if value is not None and value.name not in computed]
    return node.op_type in LAYERS or any(shape is not None and _is_matrix_of_weights(shape) for shape in weights)


def _is_matrix_of_weights(shape: ir.Shape) -> bool:
    """Return whether a weight of this shape can mix channels: more than one of its axes is longer than 1."""
    return sum(size != 1 for size in shape) > 1


def _explains(graph: ir.Graph, reached: set[str]) -> bool:
    return any(output.name in reached for output in graph.outputs)


def _source(graph: ir.Graph, value: ir.Value) -> LogitsSource:
    reached = _reached(graph, value)
    derived = tuple(str(output.name) for output in graph.outputs if output.name in reached)
    needed = _ancestors(graph, derived)
    head = [
        node.op_type
        for node in graph
        if node.op_type not in RESHAPES and {str(o.name) for o in node.outputs} & needed & (reached - {value.name})
    ]
    # The dtype is None after an operator that shape inference does not support.
    dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype

    return LogitsSource(str(value.name), dtype, _columns(value), derived, tuple(head))


def _ancestors(graph: ir.Graph, names: Sequence[str]) -> set[str]:
    needed = set(names)
    for node in reversed(graph):
        if needed & {str(value.name) for value in node.outputs}:
            needed |= {str(value.name) for value in node.inputs if value is not None}
    return needed


def _several(names: Sequence[str]) -> str:
    return f"{' and '.join(map(repr, names))} could each be the logits of a classifier; choose one with --logits NAME"
