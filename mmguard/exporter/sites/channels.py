"""Find the channel axis of a value from the layers around it."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from mmguard.exporter.shape_inference import Shape, ValueType
from mmguard.exporter.sites.elementwise import is_elementwise
from mmguard.exporter.sites.flow import Flow
from mmguard.exporter.sites.layers import STOPS, Axes, input_axes, output_axes
from mmguard.exporter.sites.relation import RESHAPING, relation

Hop = tuple[ir.Node, ir.Value, ir.Value]
"""One step of a path through the graph: a node, and the node's input and output on the path."""
UNKNOWN = ValueType()
NEAR = 500
"""Largest number of values around an activation that are visited in the search for layers."""


class ChannelAxes:
    """Finds the channel axis of a value from the layers nearest to it.

    The nearest layer after the value determines the channel axis. If that layer leaves several axes possible, for
    example because of a Flatten, the nearest layer before the value decides among these axes. If there is no layer
    before the value, the first of these axes is chosen.

    Args:
        flow: dependencies of the graph.
        types: dtype and shape of each value, by the value's name.
    """

    def __init__(self, flow: Flow, types: Mapping[str, ValueType]) -> None:
        self._flow, self._types = flow, types

    def shape(self, value: ir.Value) -> Shape | None:
        """Return the shape of a value, or None if not even its rank is known.

        Args:
            value: a value of the graph.
        """
        return self._types.get(str(value.name), UNKNOWN).shape

    def axis(self, value: ir.Value) -> int:
        """Return the channel axis of a value: -1 for the last axis, else counted from 0.

        If no layer determines the channel axis, axis 1 is assumed.

        Args:
            value: a value of the graph.
        """
        shape = self.shape(value)
        consumed = self._nearest(value, self._next_readers, self._consumed, self._back)
        produced = self._nearest(value, self._next_producers, self._produced, self._forth)
        vague = len(consumed) != 1
        axis = min(consumed & produced or (produced if vague else consumed) or consumed or {1})
        return axis if shape is None or axis < len(shape) - 1 else -1

    def _nearest(
        self,
        value: ir.Value,
        steps: Callable[[ir.Value], Iterator[Hop]],
        evidence: Callable[[Hop], Axes],
        carry: Callable[[Hop, Axes], Axes],
    ) -> Axes:
        """Return the axes that may be the value's channel axis, as determined from the nearest layer.

        The axes are counted from 0 if the rank is known. The result is empty if no layer is found.
        """
        shape = self.shape(value)
        axes = next(self._search(value, steps, evidence, carry), frozenset())
        return axes if shape is None else frozenset(axis % len(shape) for axis in axes)

    def _search(
        self,
        value: ir.Value,
        steps: Callable[[ir.Value], Iterator[Hop]],
        evidence: Callable[[Hop], Axes],
        carry: Callable[[Hop, Axes], Axes],
    ) -> Iterator[Axes]:
        """Yield, for each layer, the axes of the value that may be its channel axis. The nearest layer comes first."""
        ahead: deque[tuple[ir.Value, tuple[Hop, ...]]] = deque([(value, ())])
        seen = {value}
        while ahead and len(seen) < NEAR:
            at, path = ahead.popleft()
            for hop in steps(at):
                node, source, target = hop
                axes = evidence(hop)
                for passed in reversed(path) if axes else ():
                    axes = carry(passed, axes)
                if axes:
                    yield axes
                onward = target if at is source else source
                if node.op_type not in STOPS and onward not in seen:
                    seen.add(onward)
                    ahead.append((onward, (*path, hop)))

    def _next_readers(self, value: ir.Value) -> Iterator[Hop]:
        for node, _ in value.uses():
            for output in node.outputs:
                yield node, value, output

    def _next_producers(self, value: ir.Value) -> Iterator[Hop]:
        node = value.producer()
        for source in [] if node is None else node.inputs:
            if node is not None and source is not None and source in self._flow.computed:
                yield node, source, value

    def _consumed(self, hop: Hop) -> Axes:
        node, source, _ = hop
        index = next(i for i, value in enumerate(node.inputs) if value is source)
        weighted = sum(value in self._flow.computed for value in node.inputs[:2]) == 1
        return input_axes(node, index, self._rank(source), weighted)

    def _produced(self, hop: Hop) -> Axes:
        node, _, target = hop
        return output_axes(node, self._rank(target), node.inputs[0] not in self._flow.computed)

    def _back(self, hop: Hop, axes: Axes) -> Axes:
        """Return the axes of a hop's input that become the given axes of the hop's output."""
        node, source, target = hop
        before, after = self.shape(source), self.shape(target)
        if before is None or after is None:
            return _unmoved(node, axes)
        wanted = {axis % len(after) for axis in axes}
        return frozenset(a for a, b in relation(node, before, after) if b in wanted)

    def _forth(self, hop: Hop, axes: Axes) -> Axes:
        """Return the axes of a hop's output that the given axes of the hop's input become."""
        node, source, target = hop
        before, after = self.shape(source), self.shape(target)
        if before is None or after is None:
            return _unmoved(node, axes)
        wanted = {axis % len(before) for axis in axes}
        return frozenset(b for a, b in relation(node, before, after) if a in wanted)

    def _rank(self, value: ir.Value) -> int | None:
        shape = self.shape(value)
        return None if shape is None else len(shape)


def _unmoved(node: ir.Node, axes: Axes) -> Axes:
    """Return the given axes if the operator does not move any axes, else an empty set. Used if a rank is not known."""
    return axes if is_elementwise(node) and node.op_type not in RESHAPING else frozenset()
