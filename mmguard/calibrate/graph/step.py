"""One node of an ONNX graph, ready to run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmguard.calibrate.graph.operators import Node, Operator
from mmguard.calibrate.graph.operators.registry import Value


@dataclass(frozen=True)
class Step:
    """One node of the graph, with the kernel that computes it.

    Attributes:
        operator: the kernel to call.
        node: the node's attributes and other properties that the kernel can read.
        inputs: ONNX names of the inputs; an omitted optional input has the empty name.
        outputs: ONNX names of the outputs; an unused output has the empty name.
        drop: ONNX names of the values that are no longer needed after this step.
    """

    operator: Operator
    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    drop: tuple[str, ...] = ()

    def run(self, values: Mapping[str, Value | None]) -> Iterable[tuple[str, Value]]:
        """Compute the outputs. If PyTorch raises an error, the name of the node is added to the error as a note.

        Args:
            values: all values computed so far, by ONNX name; the empty name maps to None.

        Returns:
            Name and value of each output.

        Raises:
            UnsupportedOperatorError: the kernel does not handle this case of the operator.
            RuntimeError: PyTorch raised an error.
            ValueError: PyTorch raised an error.
            IndexError: PyTorch raised an error.
            TypeError: PyTorch raised an error.
        """
        try:
            result = self.operator.kernel(self.node, *(values[name] for name in self.inputs))
        except NotImplementedError as error:  # PyTorch does not implement the function for this dtype
            raise self.node.unsupported(f"PyTorch does not implement this case: {error}") from error
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            error.add_note(f"in {self.node.operator}, node {self.node.name!r}")
            raise
        made: tuple[Value | None, ...] = result if isinstance(result, tuple) else (result,)
        if len(made) != len(self.outputs):
            raise self.node.unsupported(f"the node has {len(self.outputs)} outputs, but mmguard computes {len(made)}")
        return [(name, self._computed(name, value)) for name, value in zip(self.outputs, made, strict=True) if name]

    def _computed(self, name: str, value: Value | None) -> Value:
        if value is None:
            raise self.node.unsupported(f"mmguard does not compute the output {name!r}")
        return value
