"""The execution plan of an ONNX graph: which kernels run in which order, and when each value is dropped."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from mmguard.calibrate.graph.batch_norm import fuse_batch_norm
from mmguard.calibrate.graph.operators import OPERATORS, STRAIGHT_THROUGH, Node
from mmguard.calibrate.graph.operators.refused import reason_to_refuse
from mmguard.calibrate.graph.operators.registry import REMEDY, Value
from mmguard.calibrate.graph.operators.tensors import DTYPES, to_torch, widened
from mmguard.calibrate.graph.step import Step
from mmguard.calibrate.graph.straight_through import let_gradients_through
from mmguard.errors import MmguardError, ModelError, UnsupportedOperatorError


@dataclass(frozen=True)
class Plan:
    """The plan for computing one value.

    Attributes:
        inputs: ONNX names of the graph inputs that the steps read.
        constants: tensors that the steps read and that do not depend on any input, by ONNX name; they are on the CPU.
        host: names of the constants that kernels read only as Python numbers, such as shapes and axes.
        steps: steps in execution order.
    """

    inputs: tuple[str, ...]
    constants: Mapping[str, Tensor]
    host: frozenset[str]
    steps: tuple[Step, ...]


def plan(model: ir.Model, output: str, widen: bool = False) -> Plan:
    """Return the execution plan for one value of a model.

    Args:
        model: the model.
        output: ONNX name of the value to compute.
        widen: whether to convert all floats to float32.

    Returns:
        The plan.

    Raises:
        ModelError: the graph has no value named `output`.
        UnsupportedOperatorError: some operators, attributes, subgraphs or functions have no kernel; the message
            lists all of them.
    """
    nodes = _needed(model.graph, output)
    _refuse_unknown(model, nodes)
    stored = _initializers(model.graph, nodes, output)
    stored = {name: widened(tensor) for name, tensor in stored.items()} if widen else stored
    steps, constants = _precompute_constants([_step(model, node, widen) for node in nodes], stored)
    steps, constants = fuse_batch_norm(steps, constants, output)
    steps = let_gradients_through(steps, output)
    read = {name for step in steps for name in step.inputs} | {output}
    data = {name for step in steps for i, name in enumerate(step.inputs) if i not in step.operator.host} | {output}
    inputs = tuple(name for value in model.graph.inputs if (name := _name(value)) in read and name not in constants)
    kept = {name: tensor for name, tensor in constants.items() if name in read}
    order = tuple(_dropping(steps, kept.keys() | {output}))
    return Plan(inputs, kept, frozenset(kept) - data, order)


def _name(value: ir.Value | None) -> str:
    return "" if value is None or value.name is None else value.name


def _label(node: ir.Node) -> str:
    return node.name or f"-> {_name(node.outputs[0])}"


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _operator(node: ir.Node) -> str:
    """Return the name of the node's operator, preceded by its domain unless that is the default ONNX domain."""
    return ".".join(filter(None, (_domain(node), node.op_type)))


def _needed(graph: ir.Graph, output: str) -> list[ir.Node]:
    """Return the nodes that `output` depends on, in graph order; ONNX requires this order to be topological."""
    known = {_name(value) for value in graph.inputs} | graph.initializers.keys()
    needed, nodes = {output}, []
    for node in reversed(list(graph)):
        outputs = {_name(value) for value in node.outputs}
        known |= outputs
        if outputs & needed - {""}:
            needed |= {_name(value) for value in node.inputs}
            nodes.append(node)
    if unknown := needed - known - {""}:
        names = ", ".join(map(repr, sorted(unknown)))
        raise ModelError(
            f"the graph {graph.name!r} computes no value named {names}; use the name of a value that the graph computes"
        )
    return nodes[::-1]


def refusals(model: ir.Model) -> list[str]:
    """Return the operators of a model that mmguard deliberately does not support, each with the reason.

    Args:
        model: the model.

    Returns:
        One phrase per operator, such as `operator Loop: ...`; an empty list if there are no such operators.
    """
    found = {name: reason_to_refuse(name) for name in map(_operator, model.graph)}
    return [f"operator {name}: {reason}" for name, reason in found.items() if reason]


def _refuse_unknown(model: ir.Model, nodes: Sequence[ir.Node]) -> None:
    functions = {(domain, name) for domain, name, _ in model.functions}
    complaints = [text for node in nodes if (text := _complaint(node, functions))]
    read = {_name(value) for node in nodes for value in node.inputs}
    complaints += [
        f"input {value.name!r} of element type {value.dtype}"
        for value in model.graph.inputs
        if value.name in read and value.dtype is not None and value.dtype not in DTYPES
    ]
    if complaints:
        listed = [f"- {text}" for text in dict.fromkeys(complaints)]
        remedy = [] if any(reason_to_refuse(_operator(node)) for node in nodes) else [REMEDY]
        raise UnsupportedOperatorError(
            "\n".join(["mmguard cannot run parts of this model in PyTorch:", *listed, *remedy])
        )


def _complaint(node: ir.Node, functions: set[tuple[str, str]]) -> str:
    """Describe the unsupported part of a node; return an empty string if the whole node is supported."""
    name = _operator(node)
    if (node.domain, node.op_type) in functions:
        return f"function {name} of the model (node {_label(node)!r}): inline the function with onnx.inliner"
    if (_domain(node), node.op_type) not in OPERATORS or node.domain == STRAIGHT_THROUGH:
        reason = reason_to_refuse(name)
        return f"operator {name} (node {_label(node)!r})" + (f": {reason}" if reason else "")
    known = OPERATORS[_domain(node), node.op_type].attributes
    if foreign := sorted(node.attributes.keys() - known):
        return f"attribute {', '.join(foreign)} of operator {name} (node {_label(node)!r})"
    return ""


def _step(model: ir.Model, node: ir.Node, widen: bool) -> Step:
    domain = _domain(node)
    version = node.version or model.opset_imports.get(domain) or model.opset_imports.get("ai.onnx") or 1
    outputs = tuple(_name(value) for value in node.outputs)
    attributes = {name: _attribute(attribute, widen) for name, attribute in node.attributes.items()}
    view = Node(".".join(filter(None, (domain, node.op_type))), _label(node), version, len(outputs), attributes, widen)
    return Step(OPERATORS[domain, node.op_type], view, tuple(_name(value) for value in node.inputs), outputs)


def _attribute(attribute: ir.Attr, widen: bool) -> Any:
    value = attribute.value
    if isinstance(value, ir.TensorProtocol):
        return widened(to_torch(value)) if widen else to_torch(value)
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _initializers(graph: ir.Graph, nodes: Sequence[ir.Node], output: str) -> dict[str, Tensor]:
    read = {_name(value) for node in nodes for value in node.inputs} | {output}
    return {
        name: to_torch(value.const_value)
        for name, value in graph.initializers.items()
        if name in read and value.const_value is not None
    }


@torch.no_grad()
def _precompute_constants(steps: Sequence[Step], constants: dict[str, Tensor]) -> tuple[list[Step], dict[str, Tensor]]:
    """Run all steps with constant inputs, except steps that return sequences.

    Returns:
        The steps that were not run, and all constants, including the results of the steps that were run.
    """
    values: dict[str, Value | None] = {"": None, **constants}
    rest = []
    for step in steps:
        if not step.operator.sequence and all(name in values for name in step.inputs):
            values.update(_computed(step, values))
        else:
            rest.append(step)
    return rest, {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _computed(step: Step, values: Mapping[str, Value | None]) -> Iterable[tuple[str, Value]]:
    """Run a step whose inputs are all constants."""
    try:
        return replace(step, node=replace(step.node, constant=True)).run(values)
    except MmguardError:
        raise
    except Exception as error:  # PyTorch may raise any exception if a model's constants are inconsistent
        raise UnsupportedOperatorError(
            f"mmguard cannot compute operator {step.node.operator} (node {step.node.name!r}), whose inputs are all "
            f"constants; export the model again, perhaps with a different opset: {error}"
        ) from error


def _dropping(steps: Sequence[Step], keep: Iterable[str]) -> list[Step]:
    """Return the steps, with `drop` set to all values that the step reads or computes but no later step reads."""
    seen, planned = {"", *keep}, []
    for step in reversed(steps):
        last = dict.fromkeys(name for name in step.outputs + step.inputs if name not in seen)
        seen |= last.keys()
        planned.append(replace(step, drop=tuple(last)))
    return planned[::-1]
