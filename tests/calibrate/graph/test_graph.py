"""The differentiable graph: bounds, records, constants, devices and refusals, on models written by hand."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from mmguard.calibrate.graph.compare import assert_matches_onnxruntime
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.operators import OPERATORS, Node, operator
from mmguard.errors import ModelError, UnsupportedOperatorError

HEADER = '<ir_version: 8, opset_import: ["" : 17, "test" : 1]>'

WEIGHTS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).mul(100).round() / 100

CLASSIFIER = """
classifier (float[n,2,4,4] x) => (float[n,3] logits)
<float[2,1,1,1] w = {1.0, -2.0}, float[2] b = {0.5, 0.25}, float[3,32] v = {WEIGHTS}, int64[1] rest = {-1}>
{
    first = Conv<group = 2>(x, w, b)
    act = Relu(first)
    second = Conv<group = 2>(act, w)
    late = Relu(second)
    shape = Shape(late)
    zero = Constant<value_int = 0>()
    count = Gather(shape, zero)
    axis = Constant<value_ints = [0]>()
    batch = Unsqueeze(count, axis)
    target = Concat<axis = 0>(batch, rest)
    flat = Reshape(late, target)
    logits = Gemm<transB = 1>(flat, v)
    unused = test.Unknown(logits)
}
""".replace("WEIGHTS", ", ".join(f"{weight:.2f}" for weight in WEIGHTS.flatten().tolist()))


def model(body: str) -> ir.Model:
    return ir.from_onnx_text(HEADER + body)


def classifier() -> DifferentiableGraph:
    """Two depthwise convolutions and a linear layer."""
    return DifferentiableGraph(model(CLASSIFIER), "logits")


def samples(count: int) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def by_hand(x: Tensor, bound: Tensor) -> Tensor:
    """The classifier with its first activation clipped, in plain arithmetic."""
    weight = torch.tensor([1.0, -2.0]).reshape(2, 1, 1)
    first = (x * weight + torch.tensor([0.5, 0.25]).reshape(2, 1, 1)).clamp(min=0)
    clipped = torch.where(first < bound, first, bound)
    return (clipped * weight).clamp(min=0).flatten(1) @ WEIGHTS.T


def test_bounds_clip_the_value_and_get_gradients() -> None:
    graph, x = classifier(), samples(7).requires_grad_()
    bound = torch.tensor([0.4, 0.9]).reshape(2, 1, 1).requires_grad_()
    actual, expected = graph(x, {"act": bound}), by_hand(x, bound)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((logits * weight).sum(), (x, bound)) for logits in (actual, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


def test_bounds_above_every_value_change_nothing() -> None:
    graph, x = classifier(), samples(3)
    assert torch.equal(graph(x, {"act": torch.full((2, 1, 1), 1e6), "late": torch.tensor(1e6)}), graph(x))


def test_a_bound_on_the_output_itself_clips_it() -> None:
    graph, x = classifier(), samples(3)
    assert torch.equal(graph(x, {"logits": torch.zeros(3)}), graph(x).clamp(max=0))


def test_records_unclipped_values_in_the_order_asked_for() -> None:
    graph, x = classifier(), samples(2)
    recorded = graph.record(x, ["late", "first"])
    assert list(recorded) == ["late", "first"]
    assert torch.equal(recorded["first"], torch.stack([x[:, 0] + 0.5, -2 * x[:, 1] + 0.25], 1))
    assert recorded["late"].shape == (2, 2, 4, 4)


def test_any_batch_size_passes_shape_arithmetic() -> None:
    graph = classifier()
    assert [graph(samples(count)).shape for count in (1, 2, 9)] == [(1, 3), (2, 3), (9, 3)]


def test_constants_are_computed_once_and_values_name_the_rest() -> None:
    names = ("first", "act", "second", "late", "shape", "count", "batch", "target", "flat", "logits")
    assert classifier().values == names


def test_weights_are_buffers_and_follow_the_module() -> None:
    graph = classifier()
    assert not list(graph.parameters())
    assert all(not buffer.requires_grad for buffer in graph.buffers())
    assert graph.to(torch.float64)(samples(2).double()).dtype == torch.float64


def test_shapes_stay_on_the_cpu_when_the_weights_are_elsewhere() -> None:
    # Tensors on the meta device hold no values: reading a shape or an index from one raises.
    graph = classifier().to("meta")
    logits = graph(samples(5).to("meta"), {"act": torch.ones(2, 1, 1, device="meta")})
    assert (logits.shape, logits.device.type) == ((5, 3), "meta")


@pytest.fixture
def probe() -> Iterator[list[int]]:
    """Registers `test.Probe`, which passes its input on and counts how many earlier inputs are still alive."""
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    @operator("Probe", domain="test")
    def kernel(node: Node, x: Tensor) -> Tensor:
        alive.append(sum(other() is not None for other in seen))
        seen.append(weakref.ref(x))
        return x + 1

    yield alive
    del OPERATORS["test", "Probe"]


def test_values_are_dropped_after_their_last_use(probe: list[int]) -> None:
    chain = "(float[n] x) => (float[n] e) { b = test.Probe(x) c = test.Probe(b) d = test.Probe(c) e = test.Probe(d) }"
    x = torch.zeros(2)
    assert DifferentiableGraph(model(f"chain {chain}"), "e")(x).tolist() == [4.0, 4.0]
    assert probe == [0, 1, 1, 1]  # x is still the caller's


def test_a_stored_value_of_a_scalar_joins_data_elsewhere() -> None:
    body = "g (float[n,2] x) => (float[n,2] y) { c = Constant<value_float = 6.0>() m = Mul(x, c) y = Min(m, c) }"
    graph = DifferentiableGraph(model(body), "y")
    assert graph(torch.tensor([[0.5, 2.0]])).tolist() == [[3.0, 6.0]]
    assert graph.to("meta")(torch.ones(1, 2, device="meta")).shape == (1, 2)


def test_outputs_and_inputs_that_are_left_out_do_not_meet() -> None:
    body = """
    g (float[n,4] x) => (float[n,2] y) {
        low = Constant<value_float = 0.0>()
        a, "" = Split<axis = 1>(x)
        y = Clip(a, low, "")
    }
    """
    y = DifferentiableGraph(model(body), "y")(torch.tensor([[-1.0, 9.0, 0.1, 0.2]]))
    assert y.tolist() == [[0.0, 9.0]]


def test_refuses_all_unknown_operators_at_once() -> None:
    body = """
    g (float[n] x) => (float[n] y) {
        [odd] a = test.Odd(x)
        b = RandomNormalLike(a)
        c = LeakyRelu<alpha = 0.1, beta = 2.0>(b)
        y = com.vendor.Fused(c)
    }
    """
    with pytest.raises(UnsupportedOperatorError) as error:
        DifferentiableGraph(model(body), "y")
    message = str(error.value)
    for part in (
        "test.Odd (node 'odd')",
        "RandomNormalLike (node '-> b'): the operator is random",
        "attribute beta of operator LeakyRelu",
        "-> y",
    ):
        assert part in message
    assert "Export the model again" not in message, "exporting again would not help with a random operator"
    with pytest.raises(UnsupportedOperatorError, match="Export the model again"):
        DifferentiableGraph(model("g (float[n] x) => (float[n] y) { y = test.Odd(x) }"), "y")


def test_refuses_nodes_with_subgraphs_by_name() -> None:
    body = """
    g (bool t, float[n] x) => (float[n] y) {
        [choice] y = If(t) <then_branch = a () => (float[n] p) { p = Relu(x) },
                            else_branch = b () => (float[n] q) { q = Abs(x) }>
    }
    """
    with pytest.raises(UnsupportedOperatorError, match=r"operator If \(node 'choice'\)"):
        DifferentiableGraph(model(body), "y")


def test_refuses_functions_of_the_model_by_name() -> None:
    body = """
    g (float[n] x) => (float[n] y) { [call] y = test.Twice(x) }
    <domain: "test", opset_import: ["" : 17]> Twice (a) => (b) { b = Add(a, a) }
    """
    with pytest.raises(UnsupportedOperatorError, match=r"function test\.Twice .*'call'.*inline"):
        DifferentiableGraph(model(body), "y")


def test_refuses_element_types_without_gradients() -> None:
    with pytest.raises(UnsupportedOperatorError, match="input 'x' of element type"):
        DifferentiableGraph(model("g (float8e4m3fn[n] x) => (float8e4m3fn[n] y) { y = Identity(x) }"), "y")


def test_names_the_node_of_a_case_it_does_not_handle() -> None:
    body = """
    g (float[n,1,4,4] x) => (float[n,1,2,2] y) { [pool] y = MaxPool<kernel_shape = [2, 2], auto_pad = "NONE">(x) }
    """
    with pytest.raises(UnsupportedOperatorError, match=r"MaxPool .node 'pool'.*auto_pad 'NONE'"):
        DifferentiableGraph(model(body), "y")(torch.zeros(1, 1, 4, 4))


def test_errors_of_pytorch_name_the_node() -> None:
    with pytest.raises(RuntimeError) as error:
        classifier()(torch.zeros(1, 2, 5, 5))
    assert error.value.__notes__ == ["in Gemm, node '-> logits'"]


def test_refuses_unknown_names() -> None:
    graph = classifier()
    with pytest.raises(ModelError, match="computes no value named 'nowhere'"):
        DifferentiableGraph(model(CLASSIFIER), "nowhere")
    for name in ("nowhere", "x", "unused"):
        with pytest.raises(ModelError, match=name):
            graph(samples(1), {name: torch.ones(1)})
        with pytest.raises(ModelError, match=name):
            graph.record(samples(1), [name])


def test_forward_takes_one_input_and_evaluate_any() -> None:
    graph = DifferentiableGraph(model("g (float[n] a, float[n] b) => (float[n] y) { y = Sub(a, b) }"), "y")
    a, b = torch.tensor([3.0]), torch.tensor([1.0])
    assert graph.evaluate({"a": a, "b": b}).tolist() == [2.0]
    with pytest.raises(ModelError, match="exactly one input"):
        graph(a)
    with pytest.raises(ModelError, match=r"no tensor was passed for \['b'\]"):
        graph.evaluate({"a": a})


STANDARDISED = """<ir_version: 8, opset_import: ["" : 17]> net (float[n, 3] x) => (float[n, 2] y, float[2] mean)
<float[1, 2, 3] w = {1, 2, 4, 0, 5, 1}, float[2] s = {1, 2}, float[2] b = {0, 1}, int64[2] shape = {2, 3}>
{
    normal, mean, variance = BatchNormalization<training_mode = 1, momentum = 0.7>(w, s, b, b, s)
    rows = Reshape(normal, shape)
    weights = Transpose(rows)
    product = MatMul(x, weights)
    y = Add(product, mean)
}"""


def test_weights_may_be_standardised_by_a_batch_normalisation_in_training_mode(tmp_path: Path) -> None:
    model, path = ir.from_onnx_text(STANDARDISED), tmp_path / "standardised.onnx"
    ir.save(model, path)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert_matches_onnxruntime(DifferentiableGraph(model, "y"), path, x, "y", 1e-6)


def test_inputs_are_not_normalised_by_the_rest_of_the_batch() -> None:
    text = STANDARDISED.replace(
        "MatMul(x, weights)", "MatMul(x, weights)  q, r, t = BatchNormalization<training_mode = 1>(product, s, b, b, s)"
    ).replace("Add(product, mean)", "Add(q, mean)")
    graph = DifferentiableGraph(ir.from_onnx_text(text), "y")
    with pytest.raises(
        UnsupportedOperatorError, match="the answer to an input depends on the other inputs in its batch"
    ):
        graph(torch.zeros(4, 3))
