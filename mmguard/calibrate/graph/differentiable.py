"""An ONNX graph as a PyTorch module, so that gradients reach its inputs and the bounds on its activations."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from mmguard.calibrate.graph.batches import run_in_batches
from mmguard.calibrate.graph.clip import clip
from mmguard.calibrate.graph.operators.registry import Value
from mmguard.calibrate.graph.operators.tensors import widened
from mmguard.calibrate.graph.plan import plan
from mmguard.errors import ModelError

_HOST_ELEMENTS = 64
"""Integer constants with at most this many elements are treated as shapes, axes or indices, and stay on the CPU."""


class DifferentiableGraph(torch.nn.Module):
    """An ONNX graph that runs node by node in PyTorch and identifies values by their ONNX names.

    Weights are buffers, not parameters, because only the bounds that the caller passes are trained. Values are
    dropped after their last use. Parts of the graph that do not depend on any input are computed only once, when the
    object is created.

    Args:
        model: the model; its weights are copied.
        output: ONNX name of the value to compute, usually the logits. Only the nodes that this value depends on are
            run.
        widen: whether to convert all floats to float32: inputs, weights and results of casts. This is necessary to
            learn the bounds of a float16 model.

    Attributes:
        output: ONNX name of the value to compute.
        widen: whether all floats are converted to float32.
        batch: fixed batch size of the model; None if the model takes any batch size. The module itself always takes
            batches of any size.
        inputs: ONNX names of the graph inputs that the output depends on.
        values: ONNX names of all tensors that depend on an input, in graph order; each can be clipped or recorded.

    Raises:
        ModelError: the graph has no value named `output`.
        UnsupportedOperatorError: some operators or attributes have no kernel; the message lists all of them. If a
            kernel does not handle a special case, the same error is raised when the node first runs.
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
            # A tensor is registered once, even if Identity nodes give it several names.
            self.register_buffer(buffer, tensor)

    def forward(self, x: Tensor, bounds: Mapping[str, Tensor] | None = None) -> Tensor:
        """Compute the output for a batch.

        Args:
            x: (N, ...) values of the graph's only input.
            bounds: upper bounds by ONNX value name, each broadcastable against its value, such as (C, 1, 1) against
                (N, C, H, W). Later nodes read the minimum of the value and its bound (paper, Eq. 2).

        Returns:
            The output, of shape (N, K) if it is the logits.

        Raises:
            ModelError: the output does not depend on exactly one input, or `bounds` has a name that is not in
                `self.values`.
        """
        name = self._input()
        (result,) = run_in_batches(lambda part: [self.evaluate({name: part}, bounds)], x, self.batch)
        return result

    def evaluate(self, inputs: Mapping[str, Tensor], bounds: Mapping[str, Tensor] | None = None) -> Tensor:
        """Compute the output of a graph with any number of inputs.

        Args:
            inputs: tensors by ONNX name of the graph input.
            bounds: upper bounds by ONNX value name, in the form that `forward` takes.

        Returns:
            The output.

        Raises:
            ModelError: an input is missing, or `bounds` has a name that is not in `self.values`.
        """
        if missing := [name for name in self.inputs if name not in inputs]:
            raise ModelError(
                f"{self.output!r} depends on the inputs {self.inputs}, but no tensor was passed for {missing}; "
                "pass a tensor for each input"
            )
        bounds = bounds or {}
        self._known(bounds)
        return self._run(inputs, bounds, {}, ())

    def record(self, x: Tensor, values: Sequence[str], bounds: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Run a batch, and return the requested activations, before they are clipped themselves.

        Args:
            x: (N, ...) values of the graph's only input.
            values: ONNX names of the requested activations, which must be in `self.values`.
            bounds: upper bounds by ONNX value name, in the form that `forward` takes; None clips nothing.

        Returns:
            The activations by ONNX name, in the order of `values`.

        Raises:
            ModelError: the output does not depend on exactly one input, or a name is not in `self.values`.
        """
        name, wanted = self._input(), frozenset(self._known(values))
        seen: list[str] = []

        def run(part: Tensor) -> list[Tensor]:
            recorded: dict[str, Tensor] = {}
            self._run({name: part}, bounds or {}, recorded, wanted)
            seen[:] = [value for value in values if value in recorded]
            return [recorded[value] for value in seen]

        tensors = run_in_batches(run, x, self.batch)  # also fills `seen`
        return dict(zip(seen, tensors, strict=True))

    def _input(self) -> str:
        if len(self.inputs) != 1:
            raise ModelError(
                f"expected {self.output!r} to depend on exactly one input of the graph, got {self.inputs}; "
                "export the model with one input"
            )
        return self.inputs[0]

    def _known(self, names: Iterable[str]) -> Iterable[str]:
        if foreign := [name for name in names if name not in self._computed]:
            raise ModelError(
                f"{self.output!r} does not depend on any value named {foreign}; use only names that are in `values`"
            )
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
            raise ModelError(
                f"expected a tensor, but {self.output!r} is a sequence of tensors; choose an output that is a tensor"
            )
        return result

    def _prepared(self, x: Tensor) -> Tensor:
        return _channels_last(widened(x) if self.widen else x) if isinstance(x, Tensor) else x


def _fixed_batch(graph: ir.Graph, inputs: Sequence[str]) -> int | None:
    """Return the fixed batch size of the graph's only input; None if the size is not fixed."""
    shapes = [value.shape for value in graph.inputs if value.name in inputs]
    size = shapes[0][0] if len(shapes) == 1 and shapes[0] is not None and len(shapes[0]) else None
    return size if isinstance(size, int) else None


def _channels_last(x: Tensor) -> Tensor:
    """Store images (N, C, H, W) in the memory layout in which convolutions run fastest."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _stays_on_host(tensor: Tensor) -> bool:
    """Return whether a constant stays on the CPU.

    Single numbers stay because PyTorch can combine them with tensors on any device. Small integer tensors stay because
    they describe shapes, axes or indices.
    """
    if tensor.is_floating_point():
        return tensor.dim() == 0
    return tensor.numel() <= _HOST_ELEMENTS
