"""One node of an ONNX graph, ready to run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mmguard.calibrate.operators import Node, Operator


@dataclass(frozen=True)
class Step:
    """One node of the graph.

    Attributes:
        operator: the kernel to call.
        node: what the kernel may know of the node.
        inputs: ONNX names of its inputs, empty where an optional one is omitted.
        outputs: ONNX names of its outputs, empty where one is not asked for.
        drop: names that no later step reads.
    """

    operator: Operator
    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    drop: tuple[str, ...] = ()

    def run(self, values: Mapping[str, Tensor | None]) -> Iterable[tuple[str, Tensor]]:
        """Names and values of the outputs asked for. An error of PyTorch's gets a note that names the node."""
        try:
            result = self.operator.kernel(self.node, *(values[name] for name in self.inputs))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            error.add_note(f"in {self.node.operator}, node {self.node.name!r}")
            raise
        if isinstance(result, Tensor):
            result = (result,)
        if len(result) != len(self.outputs):
            raise self.node.unsupported(f"{len(self.outputs)} outputs where {len(result)} are made")
        return [(name, value) for name, value in zip(self.outputs, result, strict=True) if name]
