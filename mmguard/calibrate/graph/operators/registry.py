"""Registry of the ONNX operators that the differentiable graph can run, each with a kernel (a PyTorch function)."""

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
"""A tensor, or an ONNX sequence of tensors."""

Result = Value | tuple[Tensor | None, ...]
Kernel = Callable[..., Result]
"""Signature `kernel(node, *inputs)`. The inputs are in ONNX's order, with None for an omitted optional input. A kernel
returns a tuple if the node has several outputs, and a list if its only output is a sequence."""

K = TypeVar("K", bound=Kernel)

STRAIGHT_THROUGH = "mmguard.straight_through"
"""Domain of the kernels that replace quantisation operators and let gradients pass through."""

REMEDY = (
    "Export the model again with a newer version of PyTorch or a different opset, or register a kernel with "
    "mmguard.calibrate.graph.operators.operator."
)


@dataclass(frozen=True)
class Node:
    """The information about an ONNX node that its kernel can use.

    Attributes:
        operator: name of the ONNX operator, such as `Conv`; preceded by the domain unless it is ONNX's own domain.
        name: name of the node, or `-> output` if the node has no name.
        version: opset version of the operator's domain in this model.
        outputs: number of outputs that the node has in the model.
        attributes: attributes that the model sets, with lists as tuples and tensors as PyTorch tensors.
        widen: whether the graph converts floats of every width to float32.
        constant: whether no input of the node depends on the inputs of the graph.
    """

    operator: str
    name: str
    version: int
    outputs: int
    attributes: Mapping[str, Any]
    widen: bool = False
    constant: bool = False

    def attribute(self, name: str, default: T) -> T:
        """Return an attribute, or ONNX's default if the model does not set it.

        Args:
            name: ONNX name of the attribute.
            default: value that ONNX specifies for a missing attribute.

        Returns:
            The value, of the type of `default`.

        Example:
            >>> node = Node("Elu", "-> y", version=22, outputs=1, attributes={})
            >>> node.attribute("alpha", 1.0)
            1.0
        """
        value: T = self.attributes.get(name, default)
        return value

    def required(self, name: str) -> Any:
        """Return an attribute that has no default.

        Args:
            name: ONNX name of the attribute.

        Returns:
            The value that the model sets.

        Raises:
            UnsupportedOperatorError: the model does not set the attribute.
        """
        if name not in self.attributes:
            raise self.unsupported(f"attribute {name!r} is missing")
        return self.attributes[name]

    def dtype(self, code: int) -> torch.dtype:
        """Convert an ONNX element type to a PyTorch dtype.

        Args:
            code: number of the ONNX element type, as in `onnx.TensorProto.DataType`.

        Returns:
            The dtype; float32 for every float type if `widen` is set.

        Raises:
            UnsupportedOperatorError: PyTorch does not have this element type, or cannot compute with it.
        """
        element = ir.DataType(code)
        if element not in DTYPES:
            raise self.unsupported(f"element type {element.name} is not supported")
        dtype = DTYPES[element]
        return torch.float32 if self.widen and dtype.is_floating_point else dtype

    def unsupported(self, what: str) -> UnsupportedOperatorError:
        """Return an error, for the caller to raise, about a case of the operator that the kernel does not handle.

        Args:
            what: the reason, as a clause without a full stop, such as "mode 'cubic' is not supported".

        Returns:
            An error whose message names the operator, the node and the opset, and suggests a remedy.
        """
        message = f"mmguard cannot run operator {self.operator} (node {self.name!r}, opset {self.version}): {what}."
        return UnsupportedOperatorError(f"{message} {REMEDY}")


@dataclass(frozen=True)
class Operator:
    """A kernel, with the attributes, inputs and output that it supports.

    Attributes:
        kernel: function that runs the operator.
        attributes: all attributes that the kernel supports. A node that sets any other attribute is refused.
        host: positions of the inputs that the kernel reads as Python numbers, such as shapes and axes. Constants at
            these positions stay on the CPU, so that reading them does not synchronise with the GPU.
        sequence: whether the output is, or may be, a sequence of tensors.
    """

    kernel: Kernel
    attributes: frozenset[str]
    host: frozenset[int]
    sequence: bool = False


OPERATORS: dict[tuple[str, str], Operator] = {}
"""Registered operators by (domain, ONNX name). ONNX's own domain is the empty string."""


def operator(
    *names: str, attributes: Iterable[str] = (), host: Iterable[int] = (), domain: str = "", sequence: bool = False
) -> Callable[[K], K]:
    """Register the decorated function as the kernel of ONNX operators.

    A later registration replaces an earlier one, so users can add operators and correct existing ones.

    Args:
        *names: ONNX names of the operators that the kernel runs.
        attributes: all attributes that the kernel supports.
        host: positions of the inputs that the kernel reads as Python numbers.
        domain: domain of the operators; empty for ONNX's own domain.
        sequence: whether the output is, or may be, a sequence of tensors.

    Returns:
        A decorator that returns the function unchanged.
    """

    def register(kernel: K) -> K:
        for name in names:
            OPERATORS[domain, name] = Operator(kernel, frozenset(attributes), frozenset(host), sequence)
        return kernel

    return register
