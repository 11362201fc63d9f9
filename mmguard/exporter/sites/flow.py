"""Find out which values of a graph depend on which other values."""

from collections.abc import Iterable

import onnx_ir as ir

from mmguard.exporter.sites.layers import LAYERS

SHAPES = ("Shape", "Size")
"""Operators that read only the shape of their input."""


class Flow:
    """The dependencies between the values of a graph, which determine which values can be clip sites.

    Args:
        graph: the user's graph.
        logits: name of the logits.

    Attributes:
        order: position of each node in the graph.
        computed: values that depend on the numbers in the graph's input. All other values are constants, or depend only
            on the input's shape.
        needed: values that the logits depend on, including the logits.
        feeding: values that a layer before the logits depends on.
        after: values that depend on the logits, including the logits.
    """

    def __init__(self, graph: ir.Graph, logits: str) -> None:
        self._nodes = list(graph)
        self.order = {node: i for i, node in enumerate(self._nodes)}
        self.computed = self.descendants(value for value in graph.inputs if value.name not in graph.initializers)
        named = [value for node in self._nodes for value in node.outputs if value.name == logits]
        self.needed, self.after = self._ancestors(named), self.descendants(named)
        layers = [node for node in self._nodes if node.op_type in LAYERS and not self.needed.isdisjoint(node.outputs)]
        self.feeding = self._ancestors(value for node in layers for value in node.inputs if value is not None)

    def place(self, value: ir.Value) -> int:
        """Return the position of the node that computes a value; -1 for an input of the graph.

        Args:
            value: a value of the graph.
        """
        node = value.producer()
        return -1 if node is None else self.order[node]

    def descendants(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        """Find every value that depends on the numbers in at least one of the given values.

        Args:
            values: values of the graph.

        Returns:
            The dependent values, including the given values.
        """
        found = set(values)
        for node in self._nodes:
            read = () if node.op_type in SHAPES else (value for value in node.inputs if value is not None)
            if not found.isdisjoint(read):
                found.update(node.outputs)
        return found

    def _ancestors(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        found = set(values)
        for node in reversed(self._nodes):
            if not found.isdisjoint(node.outputs):
                found.update(value for value in node.inputs if value is not None)
        return found
