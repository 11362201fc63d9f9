"""Random graphs over every operator: the interpreter against ONNX Runtime, and its gradients against differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.operators import OPERATORS, STRAIGHT_THROUGH
from mmguard.errors import UnsupportedOperatorError
from tests.calibrate.graph.drawn import DRAWN
from tests.calibrate.graph.drawn.draw import Array, Draw, Drawn, Value
from tests.calibrate.graph.drawn.graphs import Chain, append, opsets, proposal, proposals, run

SHAPES = ((2,), (3, 4), (1, 6), (2, 5, 1), (2, 4, 8), (1, 3, 4), (2, 4, 5, 6), (1, 3, 4, 4), (2, 2, 3, 4, 3))
FAST = settings(
    max_examples=200, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

TOO_NEW = {("", name) for name in ("CausalConvWithState", "LinearAttention", "SwiGLU")} | {
    ("com.microsoft", "SimplifiedLayerNormalization")
}
"""Operators that ONNX Runtime does not have yet, or only under another name."""

ROUNDED = {"QuantizeLinear", "DynamicQuantizeLinear"} | {
    *("BitCast", "BlackmanWindow", "Cast", "CastLike", "EyeLike", "FeatureVectorizer", "HammingWindow", "HannWindow"),
    *("LinearRegressor", "MelWeightMatrix", "Normalizer", "Scaler"),
}
"""Operators whose gradient is not meant to be that of their function, or that calculate in single precision."""

STEP, NOISE, LARGEST = 1e-4, 1e-5, 1e37


def tensors(values: Sequence[Value]) -> dict[str, Tensor]:
    return {value.name: torch.from_numpy(np.array(value.array)) for value in values}


def evaluated(model: onnx.ModelProto, name: str, inputs: Sequence[Value]) -> Array:
    array: Array = DifferentiableGraph(ir.from_proto(model), name).evaluate(tensors(inputs)).numpy()
    return array


def difference(actual: Array, expected: Array, factor: float = 1) -> str:
    """How two arrays differ beyond rounding, in words; empty where they do not."""
    if (actual.dtype, actual.shape) != (expected.dtype, expected.shape):
        return f"{actual.dtype} {actual.shape} where {expected.dtype} {expected.shape} is expected"
    if actual.dtype == np.float32:  # what one kernel can just hold may overflow in another
        actual, expected = (np.where(np.abs(a) > LARGEST, np.copysign(np.inf, a), a) for a in (actual, expected))
    finite = expected[np.isfinite(expected)]
    absolute = factor * 1e-5 * max(1.0, float(np.abs(finite).max(initial=0.0)))
    if np.allclose(actual, expected, 1e-4 * factor, absolute, equal_nan=True):
        return ""
    return f"{actual!r} where {expected!r} is expected"


@dataclass
class Part:
    """Some nodes of a graph by themselves."""

    model: onnx.ModelProto
    inputs: Sequence[Value]
    outputs: Sequence[str]

    def check(self, values: Mapping[str, Array]) -> None:
        """ONNX Runtime gives the outputs among some values, from the inputs among them, which must be numbers."""
        if any(np.isnan(values[given.name]).any() for given in self.inputs):
            return
        expected = run(self.model, [Value(given.name, values[given.name]) for given in self.inputs])
        for name, wanted in zip(self.outputs, expected or (), strict=bool(expected)):
            if name in values:
                assert not (found := difference(values[name], wanted)), f"{found}\n{self}"

    def __str__(self) -> str:
        return onnx.printer.to_text(self.model)


class Fuzz:
    """One random graph, whose nodes are compared one by one as they are added."""

    def __init__(self, data: st.DataObject, smooth: bool) -> None:
        # By a number, because Hypothesis prefers some elements of a list, and every operator shall be tried.
        first = Random(data.draw(st.integers(0, 2**32))).choice(list(DRAWN))
        self.draw = Draw(data.draw, data.draw(st.sampled_from(opsets(first))))
        self.chain = Chain(self.draw.opset)
        self.parts: list[Part] = []
        for shape in self.draw.shuffled(SHAPES):
            self.x = Value("x", self.draw.uneven(*shape) if smooth else self.draw.floats(*shape))
            self.draw.pool = [self.x]
            if drawn := proposal(self.draw, first, self.x):
                self.grow(drawn)
                return

    def grow(self, drawn: Sequence[Drawn]) -> None:
        """Adds nodes that ONNX Runtime runs and the interpreter knows; what they give must be equal."""
        chain = Chain(self.draw.opset, constants=list(self.chain.constants))
        inputs, names = append(chain, self.draw, drawn)
        part = Part(chain.model(inputs, names), inputs, names)
        expected = run(part.model, inputs)
        if expected is None:
            event(f"ONNX Runtime refuses {drawn[-1].operator}")
            return
        try:
            actual = {name: evaluated(part.model, name, inputs) for name in names}
        except UnsupportedOperatorError:
            event(f"the interpreter refuses {drawn[-1].operator}")
            return
        part.check({value.name: value.array for value in inputs} | actual)
        event("compared")
        self.parts.append(part)
        self.chain.nodes.extend(chain.nodes)
        self.chain.constants = chain.constants
        self.draw.pool.extend(Value(*pair) for pair in zip(names, expected, strict=True) if _tame(pair[1]))

    def __str__(self) -> str:
        return onnx.printer.to_text(self.chain.model([self.x], [self.draw.pool[-1].name]))

    def compare(self, x: Value, dynamic: bool) -> None:
        """The whole graph on an input: equal, but where rounding adds up, or moves a value over a step."""
        last = self.draw.pool[-1]
        model = self.chain.model([x], [last.name], dynamic)
        # Optimised, it may leave out the nodes that refuse a batch.
        if run(model, [x]) is None or (expected := run(model, [x], optimised=True)) is None:
            event("ONNX Runtime refuses another batch")
            return
        graph = DifferentiableGraph(ir.from_proto(model), last.name)
        if difference(graph.evaluate(tensors([x])).numpy(), expected[0], 10):
            event("rounding adds up")
            recorded = graph.record(tensors([x])["x"], graph.values)
            values = {name: value.numpy() for name, value in recorded.items()}
            for part in self.parts:
                if values.keys() >= {given.name for given in part.inputs} - {"x"}:
                    part.check(values | {"x": x.array})


def _tame(array: Array) -> bool:
    """Whether an array can be calculated on with."""
    if array.dtype.kind not in "fib" or not array.size or array.size > 5000:
        return False
    return bool(np.isfinite(array).all() and np.abs(array.astype(np.float64)).max() < 1e3)


def grown(data: st.DataObject, smooth: bool = False) -> Fuzz:
    """A graph of one to five parts, on an input away from most kinks and ties if it shall be smooth there."""
    graph = Fuzz(data, smooth)
    for drawn in islice(proposals(graph.draw), data.draw(st.integers(0, 4))):
        graph.grow(drawn)
    return graph


def fuzz(data: st.DataObject) -> None:
    graph = grown(data)
    if graph.draw.pool[-1] is graph.x:
        event("no graph")
        return
    dynamic = data.draw(st.booleans())
    graph.compare(graph.x, dynamic)
    if dynamic and graph.draw.any_batch:
        more = graph.draw.floats(graph.x.shape[0] + 1, *graph.x.shape[1:])
        graph.compare(Value("x", more), dynamic)


def slopes(data: st.DataObject) -> None:
    """The gradient is finite, and along a random direction what differences in double precision give."""
    graph = grown(data, smooth=True)
    last = graph.draw.pool[-1]
    if last is graph.x or not last.floats:
        event("no gradient")
        return
    model = ir.from_proto(graph.chain.model([graph.x], [last.name]))
    network, x = DifferentiableGraph(model, last.name), torch.from_numpy(graph.x.array).requires_grad_()
    if not (y := network(x)).requires_grad:
        event("no gradient")
        return
    weights = torch.from_numpy(graph.draw.floats(*y.shape))
    assert torch.autograd.grad((y * weights).sum(), x)[0].isfinite().all(), str(graph)
    if all(map(exact, graph.chain.nodes)):
        along(network.double(), x.detach().double(), weights.double(), graph)


def exact(node: onnx.NodeProto) -> bool:
    """Whether an operator calculates in double precision where it may, and with the gradient of its function."""
    statistics = node.op_type.endswith("LayerNormalization") and len(node.output) > 1  # single, says the standard
    return node.op_type not in ROUNDED and not statistics


def along(network: DifferentiableGraph, x: Tensor, weights: Tensor, graph: Fuzz) -> None:
    """The slope of a weighted output along a random direction, where it is smooth."""
    direction = torch.from_numpy(graph.draw.floats(*x.shape)).double()

    def score(step: float) -> Tensor:
        moved: Tensor = network(x + step * direction)
        return (moved * weights).sum()

    middle = score(0).item()
    steps = (-STEP, -STEP / 2, STEP / 2, STEP)
    secants = [(score(step).item() - middle) / step for step in steps]
    scale = max(1.0, *map(abs, secants)) + abs(middle) * NOISE / STEP
    if not max(secants) - min(secants) < 0.01 * scale:
        event("not smooth")
        return
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((network(at) * weights).sum(), at)
    event("slope compared")
    assert abs(sum(secants) / 4 - (gradient * direction).sum().item()) <= 0.02 * scale, str(graph)


@FAST
@given(st.data())
def test_random_graphs_equal_onnxruntime(data: st.DataObject) -> None:
    fuzz(data)


@pytest.mark.heavy
@settings(FAST, max_examples=10_000)
@given(st.data())
def test_ten_thousand_random_graphs_equal_onnxruntime(data: st.DataObject) -> None:
    fuzz(data)


@FAST
@given(st.data())
def test_gradients_of_random_graphs_are_finite_and_equal_differences(data: st.DataObject) -> None:
    slopes(data)


@pytest.mark.heavy
@settings(FAST, max_examples=10_000)
@given(st.data())
def test_gradients_of_ten_thousand_random_graphs(data: st.DataObject) -> None:
    slopes(data)


def test_every_operator_is_drawn() -> None:
    assert {key for key in OPERATORS if key[0] != STRAIGHT_THROUGH} - DRAWN.keys() == TOO_NEW
    assert DRAWN.keys() <= OPERATORS.keys()
