"""One node of an ONNX graph, ready to run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmguard.calibrate.graph.operators import Node, Operator
from mmguard.calibrate.graph.operators.registry import Value


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

    def run(self, values: Mapping[str, Value | None]) -> Iterable[tuple[str, Value]]:
        """Names and values of the outputs asked for. An error of PyTorch's gets a note that names the node."""
        try:
            result = self.operator.kernel(self.node, *(values[name] for name in self.inputs))
        except NotImplementedError as error:  # PyTorch has the function, but not for this dtype
            raise self.node.unsupported(str(error)) from error
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            error.add_note(f"in {self.node.operator}, node {self.node.name!r}")
            raise
        made: tuple[Value | None, ...] = result if isinstance(result, tuple) else (result,)
        if len(made) != len(self.outputs):
            raise self.node.unsupported(f"{len(self.outputs)} outputs where {len(made)} are made")
        return [(name, self._there(name, value)) for name, value in zip(self.outputs, made, strict=True) if name]

    def _there(self, name: str, value: Value | None) -> Value:
        if value is None:
            raise self.node.unsupported(f"the output {name!r}")
        return value
