"""Build ONNX models from chains of drawn nodes, and run them with ONNX Runtime."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from mmguard.runtime.session import ORT_ERRORS
from tests.calibrate.graph.drawn.draw import DRAWN, Array, Draw, Drawn, Value

OPSETS = range(7, 27)
"""Opsets, from the oldest to the newest that ONNX Runtime loads."""

ML_VERSION, CONTRIBUTED = 3, "com.microsoft"


@dataclass
class Chain:
    """A model under construction."""

    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def model(self, inputs: Sequence[Value], outputs: Sequence[str], dynamic: bool = False) -> onnx.ModelProto:
        """Return the nodes as a model. In a dynamic model, the first axis of the inputs has no fixed length."""
        given = [_info(value, dynamic) for value in inputs]
        wanted = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "drawn", given, wanted, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("ai.onnx.ml", ML_VERSION)]
        opsets.append(helper.make_opsetid(CONTRIBUTED, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _info(value: Value, dynamic: bool) -> onnx.ValueInfoProto:
    shape: list[Any] = list(value.shape)
    if dynamic and shape:
        shape[0] = "n"
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.array.dtype), shape)


def run(model: onnx.ModelProto, inputs: Sequence[Value], optimised: bool = False) -> list[Array] | None:
    """Return the outputs of ONNX Runtime on the CPU, or None if it refuses the model or the inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs: list[Array] = session.run(None, {value.name: value.array for value in inputs})
    except ORT_ERRORS:
        return None
    return outputs


@cache
def operators(opset: int) -> tuple[tuple[str, str], ...]:
    """Return the operators that can be drawn and that the opset has."""
    return tuple(key for key in DRAWN if key[0] or _exists(key[1], opset))


@cache
def opsets(operator: tuple[str, str]) -> tuple[int, ...]:
    """Return the chains that contain an operator."""
    return tuple(opset for opset in OPSETS if operator in operators(opset))


def _exists(operator: str, opset: int) -> bool:
    try:
        return not onnx.defs.get_schema(operator, opset, "").deprecated
    except onnx.defs.SchemaError:
        return operator == "SimplifiedLayerNormalization"


def proposals(draw: Draw) -> Iterator[list[Drawn]]:
    """Draw nodes that accept values of the pool."""
    while True:
        latest = draw.pool[-1] if draw.whole(0, 2) else draw.one(*draw.pool)
        if drawn := proposal(draw, draw.one(*operators(draw.opset)), latest):
            yield drawn


def proposal(draw: Draw, operator: tuple[str, str], x: Value) -> list[Drawn]:
    """Draw nodes of an operator that reads x; none if it cannot."""
    drawn = DRAWN[operator](draw, operator[1], x)
    nodes = drawn if isinstance(drawn, list) else [drawn] if drawn else []
    for node in nodes[-1:]:
        node.domain = operator[0]
    return nodes


def append(chain: Chain, draw: Draw, drawn: Sequence[Drawn]) -> tuple[list[Value], list[str]]:
    """Add nodes to a chain. Return the values that they read and the output names of the last node."""
    read: dict[str, Value] = {}
    names: dict[tuple[Drawn, int], str] = {}
    for node in drawn:
        inputs = [_name(chain, draw, given, names, read) for given in node.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        outputs = [draw.fresh("v") for _ in range(node.outputs)]
        names |= {(node, i): name for i, name in enumerate(outputs)}
        chain.nodes.append(helper.make_node(node.operator, inputs, outputs, domain=node.domain, **node.attributes))
    return list(read.values()), [names[drawn[-1], i] for i in range(drawn[-1].outputs)]


def _name(chain: Chain, draw: Draw, given: Any, names: dict[tuple[Drawn, int], str], read: dict[str, Value]) -> str:
    if given is None:
        return ""
    if isinstance(given, Value):
        read[given.name] = given
        return given.name
    if isinstance(given, Drawn):
        return names[given, 0]
    return names[given] if isinstance(given, tuple) else _stored(chain, draw, given)


def _stored(chain: Chain, draw: Draw, constant: Array) -> str:
    """Add a constant as an initialiser (shared with an equal one), through an Identity, or as a Constant node."""
    tensor = numpy_helper.from_array(np.asarray(constant), draw.fresh("c"))
    way = draw.whole(0, 5)
    if way == 0:
        chain.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        return tensor.name
    for other in chain.constants:
        if (other.data_type, other.dims, other.raw_data) == (tensor.data_type, tensor.dims, tensor.raw_data):
            return other.name
    chain.constants.append(tensor)
    if way == 1:
        chain.nodes.append(helper.make_node("Identity", [tensor.name], [again := draw.fresh("c")]))
        return again
    return tensor.name
