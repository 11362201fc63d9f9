"""An ONNX graph as a PyTorch module, so that gradients reach its inputs and the bounds on its activations."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from mmguard.calibrate.graph.clip import clip
from mmguard.calibrate.graph.fixed_batch import in_parts
from mmguard.calibrate.graph.operators.registry import Value
from mmguard.calibrate.graph.operators.tensors import widened
from mmguard.calibrate.graph.plan import plan
from mmguard.errors import ModelError

_HOST_ELEMENTS = 64
"""Integer constants up to this size are shapes, axes or indices of shapes: they stay on the CPU."""


class DifferentiableGraph(torch.nn.Module):
    """Interprets the graph, node by node, over values keyed by their ONNX names.

    Weights are buffers, not parameters: nothing here is trained but what the caller passes as bounds. Values are
    dropped after their last use, and subexpressions that depend on no input are computed once, at construction.

    Args:
        model: the model; its weights are copied.
        output: ONNX name of the value to compute, usually the logits. Nodes that it does not need are not run.
        widen: whether every float is float32: inputs, weights and what casts give, of whatever width they are in the
            model. Gradients and bounds of a half-precision model are learned so.

    Attributes:
        output, widen: as given.
        batch: the one size of a batch that the model takes; None where it takes any. Here it is run on any either way.
        inputs: ONNX names of the graph inputs that the output depends on.
        values: ONNX names of all tensors that depend on an input, in the graph's order; each can be bounded or
            recorded.

    Raises:
        ModelError: where the graph has no value of that name.
        UnsupportedOperatorError: lists every operator and attribute that is not known. A case that a known operator
            does not handle raises the same error when the node first runs.
    """

    def __init__(self, model: ir.Model, output: str, widen: bool = False) -> None:
        super().__init__()
        planned = plan(model, output, widen)
        self.output = output
        self.widen = widen
        self.inputs = planned.inputs
        self.batch = _fixed_batch(model.graph, self.inputs)
        self.values = tuple(
            name for step in planned.steps if not step.operator.sequence for name in step.outputs if name
        )
        self._computed = frozenset(self.values)
        self._steps = planned.steps
        self._host: dict[str, Tensor] = {}
        self._buffer_names: dict[str, str] = {}
        stored: dict[int, str] = {}
        for i, (name, tensor) in enumerate(planned.constants.items()):
            if name in planned.host or _stays_on_host(tensor):
                self._host[name] = tensor
                continue
            buffer = self._buffer_names[name] = stored.setdefault(id(tensor), f"constant_{i}")
            self.register_buffer(buffer, tensor)  # once, where Identity gives it several names

    def forward(self, x: Tensor, bounds: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output for a batch.

        Args:
            x: (N, ...), the graph's one input.
            bounds: upper bounds by ONNX value name, each broadcast against its value, such as (C, 1, 1) against
                (N, C, H, W); what follows sees the minimum of the two.

        Returns:
            (N, K) where the output is the logits.

        Raises:
            ModelError: where the graph depends on another number of inputs, or a bound names no value of it.
        """
        name = self._input()
        (result,) = in_parts(lambda part: [self.evaluate({name: part}, bounds)], x, self.batch)
        return result

    def evaluate(self, inputs: Mapping[str, Tensor], bounds: Mapping[str, Tensor] | None = None) -> Tensor:
        """Like `forward`, for graphs with any number of inputs, given by their ONNX names."""
        if missing := [name for name in self.inputs if name not in inputs]:
            raise ModelError(f"{self.output!r} depends on the inputs {self.inputs}; {missing} were not given.")
        bounds = bounds or {}
        self._known(bounds)
        return self._run(inputs, bounds, {}, ())

    def record(self, x: Tensor, values: Sequence[str]) -> dict[str, Tensor]:
        """The unclipped activations of a batch.

        Args:
            x: (N, ...), the graph's one input.
            values: ONNX names, any of `self.values`.

        Returns:
            The activations by name, in the order asked for.

        Raises:
            ModelError: as `forward`.
        """
        name, wanted = self._input(), frozenset(self._known(values))
        seen: list[str] = []

        def run(part: Tensor) -> list[Tensor]:
            recorded: dict[str, Tensor] = {}
            self._run({name: part}, {}, recorded, wanted)
            seen[:] = [value for value in values if value in recorded]
            return [recorded[value] for value in seen]

        tensors = in_parts(run, x, self.batch)  # which finds out what is seen
        return dict(zip(seen, tensors, strict=True))

    def _input(self) -> str:
        if len(self.inputs) != 1:
            raise ModelError(f"{self.output!r} must depend on exactly one input of the graph, not on {self.inputs}.")
        return self.inputs[0]

    def _known(self, names: Iterable[str]) -> Iterable[str]:
        if foreign := [name for name in names if name not in self._computed]:
            raise ModelError(f"{self.output!r} depends on no computed value {foreign}; take names from `values`.")
        return names

    def _run(
        self,
        inputs: Mapping[str, Tensor],
        bounds: Mapping[str, Tensor],
        recorded: dict[str, Tensor],
        wanted: Collection[str],
    ) -> Tensor:
        inputs = {name: self._prepared(x) for name, x in inputs.items()}
        buffers = {name: self._buffers[buffer] for name, buffer in self._buffer_names.items()}
        values: dict[str, Value | None] = {"": None, **self._host, **buffers, **inputs}
        for step in self._steps:
            for name, value in step.run(values):
                if name in wanted and isinstance(value, Tensor):
                    recorded[name] = value
                values[name] = clip(value, bounds[name]) if name in bounds and isinstance(value, Tensor) else value
            for name in step.drop:
                del values[name]
        result = values[self.output]
        if not isinstance(result, Tensor):
            raise ModelError(f"{self.output!r} is a sequence of tensors; name a tensor.")
        return result

    def _prepared(self, x: Tensor) -> Tensor:
        return _channels_last(widened(x) if self.widen else x) if isinstance(x, Tensor) else x


def _fixed_batch(graph: ir.Graph, inputs: Sequence[str]) -> int | None:
    """The first length of the one input, where that is a number."""
    shapes = [value.shape for value in graph.inputs if value.name in inputs]
    size = shapes[0][0] if len(shapes) == 1 and shapes[0] is not None and len(shapes[0]) else None
    return size if isinstance(size, int) else None


def _channels_last(x: Tensor) -> Tensor:
    """The same tensor; images (N, C, H, W) lie in memory as convolutions are fastest on."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _stays_on_host(tensor: Tensor) -> bool:
    """Single numbers join data on any device as they are; small integers are about shapes."""
    if tensor.is_floating_point():
        return tensor.dim() == 0
    return tensor.numel() <= _HOST_ELEMENTS
