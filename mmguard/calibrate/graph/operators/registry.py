"""The table of ONNX operators that the differentiable graph knows: one small PyTorch function each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from torch import Tensor

from mmguard.calibrate.graph.operators.tensors import DTYPES
from mmguard.errors import UnsupportedOperatorError

T = TypeVar("T")
Value = Tensor | list[Tensor]
"""A tensor, or a sequence of them."""

Result = Value | tuple[Tensor | None, ...]
Kernel = Callable[..., Result]
"""`kernel(node, *inputs)`: inputs are values in ONNX's order, None where an optional one is omitted. A tuple of tensors
is one for each output, a list is one output that is a sequence."""

K = TypeVar("K", bound=Kernel)

STRAIGHT_THROUGH = "mmguard.straight_through"
"""Domain of the operators that stand in for those that quantise, and let gradients through."""

REMEDY = (
    "Export the model again with a newer torch.onnx.export or another opset, or add the operator with "
    "mmguard.calibrate.graph.operators.operator."
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
        widen: whether floats of every width are float32 here.
        constant: whether no input of the node depends on the graph's.
    """

    operator: str
    name: str
    version: int
    outputs: int
    attributes: Mapping[str, Any]
    widen: bool = False
    constant: bool = False

    def attribute(self, name: str, default: T) -> T:
        """The attribute, or ONNX's default for it."""
        value: T = self.attributes.get(name, default)
        return value

    def required(self, name: str) -> Any:
        """The attribute. Raises UnsupportedOperatorError where the model does not set it."""
        if name not in self.attributes:
            raise self.unsupported(f"attribute {name!r} is missing")
        return self.attributes[name]

    def dtype(self, code: int) -> torch.dtype:
        """The dtype of an ONNX element type. Raises UnsupportedOperatorError for those without gradients."""
        element = ir.DataType(code)
        if element not in DTYPES:
            raise self.unsupported(f"element type {element.name}")
        dtype = DTYPES[element]
        return torch.float32 if self.widen and dtype.is_floating_point else dtype

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
        sequence: whether its output is, or may be, a sequence of tensors.
    """

    kernel: Kernel
    attributes: frozenset[str]
    host: frozenset[int]
    sequence: bool = False


OPERATORS: dict[tuple[str, str], Operator] = {}
"""(domain, ONNX operator) to what runs it; ONNX's own domain is the empty string."""


def operator(
    *names: str, attributes: Iterable[str] = (), host: Iterable[int] = (), domain: str = "", sequence: bool = False
) -> Callable[[K], K]:
    """Decorator that registers a kernel for the ONNX operators `names`; the arguments are those of `Operator`.

    A later registration replaces an earlier one, so that users can add to the table and correct it.
    """

    def register(kernel: K) -> K:
        for name in names:
            OPERATORS[domain, name] = Operator(kernel, frozenset(attributes), frozenset(host), sequence)
        return kernel

    return register
