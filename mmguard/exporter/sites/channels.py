"""Find the axis on which a value has its channels, from the layers around it."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from mmguard.exporter.sites.elementwise import is_elementwise
from mmguard.exporter.sites.flow import Flow
from mmguard.exporter.sites.layers import STOPS, Axes, input_axes, output_axes
from mmguard.exporter.sites.relation import RESHAPING, relation
from mmguard.exporter.values import Shape, ValueType

Hop = tuple[ir.Node, ir.Value, ir.Value]
"""A node, and the two of its values that a path goes through: in the graph's direction."""
UNKNOWN = ValueType()
NEAR = 500
"""Values around one among which a layer is looked for."""


class ChannelAxes:
    """Reads off the nearest layers where channels are.

    The nearest consumer decides; where it takes several axes for its channels, as after a Flatten, the nearest producer
    says which it is, and where there is none the first of them is it.

    Args:
        flow: of the graph. types: by value name.
    """

    def __init__(self, flow: Flow, types: Mapping[str, ValueType]) -> None:
        self._flow, self._types = flow, types

    def shape(self, value: ir.Value) -> Shape | None:
        """Shape of a value, None where not even its rank is known."""
        return self._types.get(str(value.name), UNKNOWN).shape

    def axis(self, value: ir.Value) -> int:
        """The channels' axis: from 0, or -1 for the last one; 1 where nothing tells it."""
        shape = self.shape(value)
        consumed = self._nearest(value, self._next_readers, self._taken, self._back)
        produced = self._nearest(value, self._next_makers, self._made, self._forth)
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
        """What the nearest layer that says anything says, counted from 0 where the rank is known."""
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
        """What layers say, the nearest first, carried along the path between them and the value."""
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

    def _next_makers(self, value: ir.Value) -> Iterator[Hop]:
        node = value.producer()
        for source in [] if node is None else node.inputs:
            if node is not None and source is not None and source in self._flow.computed:
                yield node, source, value

    def _taken(self, hop: Hop) -> Axes:
        node, source, _ = hop
        index = next(i for i, value in enumerate(node.inputs) if value is source)
        weighted = sum(value in self._flow.computed for value in node.inputs[:2]) == 1
        return input_axes(node, index, self._rank(source), weighted)

    def _made(self, hop: Hop) -> Axes:
        node, _, target = hop
        return output_axes(node, self._rank(target), node.inputs[0] not in self._flow.computed)

    def _back(self, hop: Hop, axes: Axes) -> Axes:
        """From axes of the hop's output to those of its input."""
        node, source, target = hop
        before, after = self.shape(source), self.shape(target)
        if before is None or after is None:
            return _unmoved(node, axes)
        wanted = {axis % len(after) for axis in axes}
        return frozenset(a for a, b in relation(node, before, after) if b in wanted)

    def _forth(self, hop: Hop, axes: Axes) -> Axes:
        """From axes of the hop's input to those of its output."""
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
    """The same axes, where ranks are not known, of an operator that leaves them in place."""
    return axes if is_elementwise(node) and node.op_type not in RESHAPING else frozenset()
