"""The table of ONNX operators that the differentiable graph knows: one small PyTorch function each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from mmguard.errors import UnsupportedOperatorError

T = TypeVar("T")
Kernel = Callable[..., Tensor | tuple[Tensor, ...]]
"""`kernel(node, *inputs)`: inputs are tensors in ONNX's order, None where an optional one is omitted."""

REMEDY = (
    "Export the model again with a newer torch.onnx.export or another opset, or add the operator with "
    "mmguard.calibrate.operators.operator."
)


@dataclass(frozen=True)
class Node:
    """What a kernel may know of its ONNX node.

    Attributes:
        operator: ONNX operator, such as `Conv`, with its domain in front where that is not ONNX's own.
        name: the node's name, or `-> output` where it has none.
        version: opset version of the operator's domain in this model.
        outputs: how many outputs the model asks for.
        attributes: the attributes that the model sets; lists are tuples, tensors are PyTorch's.
    """

    operator: str
    name: str
    version: int
    outputs: int
    attributes: Mapping[str, Any]

    def attribute(self, name: str, default: T) -> T:
        """The attribute, or ONNX's default for it."""
        value: T = self.attributes.get(name, default)
        return value

    def required(self, name: str) -> Any:
        """The attribute. Raises UnsupportedOperatorError where the model does not set it."""
        if name not in self.attributes:
            raise self.unsupported(f"attribute {name!r} is missing")
        return self.attributes[name]

    def unsupported(self, what: str) -> UnsupportedOperatorError:
        """The error for a case that the kernel does not handle; the kernel raises it."""
        message = f"Operator {self.operator} (node {self.name!r}, opset {self.version}) is known, but not here: {what}."
        return UnsupportedOperatorError(f"{message} {REMEDY}")


@dataclass(frozen=True)
class Operator:
    """A kernel and what it takes.

    Attributes:
        kernel: the function.
        attributes: every attribute that the kernel honours; a node that sets another one is refused.
        host: positions of inputs that the kernel reads as Python numbers (shapes, axes), so that constants there
            stay on the CPU and cost no synchronisation.
    """

    kernel: Kernel
    attributes: frozenset[str]
    host: frozenset[int]


OPERATORS: dict[tuple[str, str], Operator] = {}
"""(domain, ONNX operator) to what runs it; ONNX's own domain is the empty string."""


def operator(
    *names: str, attributes: Iterable[str] = (), host: Iterable[int] = (), domain: str = ""
) -> Callable[[Kernel], Kernel]:
    """Decorator that registers a kernel for the ONNX operators `names`; the arguments are those of `Operator`.

    A later registration replaces an earlier one, so that users can add to the table and correct it.
    """

    def register(kernel: Kernel) -> Kernel:
        for name in names:
            OPERATORS[domain, name] = Operator(kernel, frozenset(attributes), frozenset(host))
        return kernel

    return register
