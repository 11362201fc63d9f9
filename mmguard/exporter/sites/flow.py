"""Which values of a graph depend on which."""

from collections.abc import Iterable

import onnx_ir as ir

from mmguard.exporter.sites.layers import LAYERS

SHAPES = ("Shape", "Size")
"""Operators that read no numbers."""


class Flow:
    """The dependencies that clip sites turn on.

    Args:
        graph: the user's graph. logits: name of the logits.

    Attributes:
        order: place of each node in the graph.
        computed: values that depend on the numbers in the graph's input; others are constants, or of its shape alone.
        needed: values that the logits depend on, the logits included.
        feeding: values that a layer on the way to the logits depends on.
        after: values that depend on the logits, the logits included.
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
        """Of the node that makes the value; -1 for an input of the graph."""
        node = value.producer()
        return -1 if node is None else self.order[node]

    def descendants(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        """The values themselves, and all that depend on the numbers in one of them."""
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
