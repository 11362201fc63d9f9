"""Sites in models that ONNX Runtime quantises, with QuantizeLinear and DequantizeLinear around every operator."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.operators import OPERATORS
from mmguard.exporter.insert_min import insert_min
from mmguard.exporter.sites import Activation, Exclusion, Survey, survey
from tests.exporter.sites.exports import export

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
KEPT = {"Gelu": nn.GELU, "HardSwish": nn.Hardswish, "LeakyRelu": nn.LeakyReLU, "Swish": nn.SiLU, "Tanh": nn.Tanh}
"""Activations that ONNX Runtime's quantiser leaves in place."""


class Network(nn.Module):
    """A residual block with squeeze and excitation, and a head of two layers."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), activation(), nn.MaxPool2d(2))
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), activation())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), activation()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), activation(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.first(x)
        logits: Tensor = self.head(self.last(self.second(y * self.gate(y)) + x))
        return logits


def images(n: int) -> Array:
    """(n, 3, 8, 8) in [0, 1], so that the network's input has 0 for its least integer too."""
    return np.random.default_rng(n).uniform(size=(n, 3, 8, 8)).astype(np.float32)


def quantise(folder: Path, activation: type[nn.Module], kind: str = "QUInt8", symmetric: bool = False) -> ir.Model:
    """A random network, exported at opset 17 and quantised with its activations as such integers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [images(20)]

        def get_next(self) -> Mapping[str, Array] | None:
            return {"x": self.left.pop()} if self.left else None

    torch.manual_seed(0)
    export(Network(activation), torch.zeros(2, 3, 8, 8), folder / "float.onnx", dynamo=False, opset=17)
    quantization.quantize_static(
        *(folder / "float.onnx", folder / "model.onnx", Reader()),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType[kind],
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        extra_options={"ActivationSymmetric": symmetric},
    )
    return ir.load(folder / "model.onnx")


def summary(found: Survey) -> list[tuple[str, int, int | None, int | None]]:
    return [(site.operator, site.axis, site.channels, site.places) for site in found.sites]


def expected(operator: str) -> list[tuple[str, int, int | None, int | None]]:
    """Of the activations of `Network`."""
    return [(operator, 1, 8, 36), (operator, 1, 8, 9), (operator, 1, 8, 9), (operator, -1, 16, 1)]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("kind", ["QUInt8", "QInt8", "QUInt16"])
def test_where_the_quantiser_removed_a_relu_its_input_is_a_site(
    tmp_path: Path, activation: type[nn.Module], kind: str
) -> None:
    model = quantise(tmp_path, activation, kind)
    assert not {"Relu", "Clip"} & {node.op_type for node in model.graph}
    found = survey(model, "logits")
    assert summary(found) == expected("QuantizeLinear")
    assert [(each.operator, each.reason) for each in found.excluded] == [("Sigmoid", Exclusion.GATE)]


@pytest.mark.parametrize("operator", sorted(KEPT))
def test_an_activation_that_stays_is_the_one_site(tmp_path: Path, operator: str) -> None:
    found = survey(quantise(tmp_path, KEPT[operator]), "logits")
    assert summary(found) == expected(operator)
    assert [(each.operator, each.reason) for each in found.excluded] == [("Sigmoid", Exclusion.GATE)]


def test_symmetric_integers_hide_no_relu(tmp_path: Path) -> None:
    assert summary(survey(quantise(tmp_path, nn.ReLU, "QInt8", symmetric=True), "logits")) == expected("Relu")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Activation, ...]]:
    """A quantised network without any Relu left, and its sites."""
    folder = tmp_path_factory.mktemp("quantised")
    return folder / "model.onnx", survey(quantise(folder, nn.ReLU), "logits").sites


def clipped(path: Path, bounds: Callable[[Activation], float]) -> onnx.ModelProto:
    model = ir.load(path)
    sites = {site.value: site for site in survey(model, "logits").sites}
    for node in list(model.graph):
        for value in node.outputs:
            if (site := sites.get(str(value.name))) is not None:
                shape = (site.channels or 0, 1, 1) if site.axis == 1 else (site.channels or 0,)
                insert_min(model.graph, value, np.full(shape, bounds(site), np.float32))
    return ir.to_proto(model)


def values(model: onnx.ModelProto, names: list[str]) -> list[Array]:
    """By ONNX Runtime as the graph stands: its optimiser would compute with integers where no Min is in between."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for name in names:
        if name != "logits":
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(names, {"x": images(30)})
    return found


def test_a_min_moves_no_other_number(quantised: tuple[Path, tuple[Activation, ...]]) -> None:
    path, sites = quantised
    before, after = onnx.load(path), clipped(path, lambda _: 1e6)
    np.testing.assert_array_equal(values(after, ["logits"]), values(before, ["logits"]))
    numbers = {each.name: numpy_helper.to_array(each) for each in after.graph.initializer}
    assert len(numbers) == len(before.graph.initializer) + len(sites)
    for each in before.graph.initializer:
        np.testing.assert_array_equal(numbers[each.name], numpy_helper.to_array(each))


def test_bounds_act_on_what_is_quantised(quantised: tuple[Path, tuple[Activation, ...]]) -> None:
    path, sites = quantised
    names = [f"{site.value}_mmguard_clipped" for site in sites]
    for value in values(clipped(path, lambda _: 0.05), names):
        assert value.max() == np.float32(0.05)


@pytest.mark.skipif(
    ("", "QuantizeLinear") not in OPERATORS, reason="the differentiable graph knows no quantisation yet"
)
def test_gradients_reach_every_bound(quantised: tuple[Path, tuple[Activation, ...]]) -> None:
    path, sites = quantised
    graph, x = DifferentiableGraph(ir.load(path), "logits"), torch.from_numpy(images(30))
    recorded = graph.record(x, [site.value for site in sites])
    bounds = {value: (activation.amax() / 2).requires_grad_() for value, activation in recorded.items()}
    (graph(x, bounds) * torch.arange(1.0, 6.0)).sum().backward()
    for bound in bounds.values():
        assert bound.grad is not None
        assert bound.grad.isfinite().all()
        assert bound.grad != 0
