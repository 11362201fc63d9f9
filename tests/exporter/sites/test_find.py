"""Which values get a bound, and which do not and why."""

import logging

import numpy as np
import onnx_ir as ir
import pytest

from mmguard.errors import NoActivationError, OptionError
from mmguard.exporter.insert_min import insert_min
from mmguard.exporter.sites import Exclusion, find_activations, survey
from mmguard.exporter.sites.candidates import ACTIVATIONS
from mmguard.exporter.sites.candidates import CONTRIBUTED as OPERATORS_OF_ONNX_RUNTIME
from tests.exporter.sites.graphs import CONTRIBUTED, CONVOLVED, NEWEST, graph, operators, surveyed
from tests.networks import HEADER, PLAIN, RESIDUAL


def sites(body: str, logits: str = "logits", header: str = HEADER) -> list[tuple[str, str]]:
    return operators(survey(ir.from_onnx_text(header + body), logits))


def excluded(body: str, shape: str = "n, 4, 4, 4") -> list[tuple[str, Exclusion]]:
    return [(each.value, each.reason) for each in surveyed(body, shape).excluded]


def test_activations_come_in_the_graphs_order() -> None:
    assert sites(RESIDUAL) == [("act", "Relu"), ("end", "LeakyRelu")]


@pytest.mark.parametrize("operator", sorted(ACTIVATIONS))
def test_every_activation_is_a_site(operator: str) -> None:
    slope = ", slope" if operator == "PRelu" else ""
    body = PLAIN.replace("Relu(x)", f"{operator}(x{slope})").replace(
        "<float", "<float[4] slope = {1.0, 1.0, 1.0, 1.0}, float"
    )
    assert sites(body, header=NEWEST) == [("hidden", operator)]


@pytest.mark.parametrize("operator", sorted(OPERATORS_OF_ONNX_RUNTIME))
def test_the_activations_that_onnx_runtime_writes_are_sites(operator: str) -> None:
    inputs = "t, bias" if operator in ("BiasGelu", "FastGelu") else "t"
    body = f"t = Transpose<perm = [0, 2, 3, 1]>(c) a = com.microsoft.{operator}({inputs})"
    found = surveyed(CONVOLVED.format(f"{body} y = Transpose<perm = [0, 3, 1, 2]>(a)"), header=CONTRIBUTED)
    (site,) = found.sites
    assert (site.value, site.operator, site.axis, site.channels, site.places) == ("a", operator, -1, 4, 16)


def test_a_layer_that_onnx_runtime_fused_with_its_activation_is_a_site() -> None:
    body = CONVOLVED.format('y = com.microsoft.FusedConv<activation = "Relu">(c, k)').replace(
        "MatMul(features, w)", "MatMul(h, w)"
    )
    dense = 'h = com.microsoft.FusedGemm<activation = "LeakyRelu", activation_alpha = 0.1>(features, square, bias)'
    found = surveyed(body.replace("logits =", f"{dense} logits ="), header=CONTRIBUTED)
    assert [(site.value, site.operator, site.axis, site.channels) for site in found.sites] == [
        ("y", "Relu", 1, 4),
        ("h", "LeakyRelu", -1, 4),
    ]
    plain = CONVOLVED.format("d = com.microsoft.FusedConv(c, k) y = Relu(d)")
    assert operators(surveyed(plain, header=CONTRIBUTED)) == [("y", "Relu")]


def test_an_operator_of_another_domain_is_left() -> None:
    body = PLAIN.replace("logits =", "own = com.example.Relu(hidden) logits =").replace("MatMul(hidden", "MatMul(own")
    header = '<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>'
    assert sites(body, header=header) == [("hidden", "Relu")]


def test_an_activation_of_weights_is_left() -> None:
    found = surveyed(
        "q = Relu(k) c = Conv(x, q) y = Relu(c) p = GlobalAveragePool(y) f = Flatten(p) logits = MatMul(f, w)"
    )
    assert operators(found) == [("y", "Relu")]
    assert not found.excluded


def test_a_maximum_of_lengths_is_no_activation() -> None:
    """Padding that depends on the size of the image is written so."""
    body = "s = Shape(c) l = Cast<to = 1>(s) r = Relu(l) i = Cast<to = 7>(r) e = Reshape(c, i) y = Relu(e)"
    found = surveyed(CONVOLVED.format(body))
    assert operators(found) == [("y", "Relu")]
    assert not found.excluded


def test_an_activation_of_integers_is_left() -> None:
    body = CONVOLVED.format("i = Cast<to = 7>(c) r = Relu(i) z = Cast<to = 1>(r) y = Relu(z)")
    assert operators(surveyed(body)) == [("y", "Relu")]


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh", "HardSigmoid"])
def test_a_bounded_activation_that_a_layer_reads_is_a_site(operator: str) -> None:
    assert operators(surveyed(CONVOLVED.format(f"y = {operator}(c)"))) == [("y", operator)]
    joined = CONVOLVED.format(f"a = {operator}(c) y = Add(a, c)")
    assert operators(surveyed(joined)) == [("a", operator)], "a sum is no gate"


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh", "HardSigmoid"])
@pytest.mark.parametrize("order", ["c, wide", "wide, c"])
def test_a_gate_is_left(operator: str, order: str) -> None:
    """Squeeze and excitation: what a whole channel is multiplied by."""
    body = f"s = GlobalAveragePool(c) e = Conv(s, k) gate = {operator}(e) wide = Expand(gate, size) y = Mul({order})"
    found = surveyed(CONVOLVED.format(body), constants="int64[4] size = {1, 4, 4, 4}")
    assert not found.sites
    assert [(each.value, each.reason) for each in found.excluded] == [("gate", Exclusion.GATE)]


def test_half_of_a_gated_linear_unit_is_left() -> None:
    body = "a = Conv(c, k) b = Conv(c, k) gate = Sigmoid(b) y = Mul(a, gate)"
    assert excluded(CONVOLVED.format(body)) == [("gate", Exclusion.GATE)]


def test_what_is_normalised_by_its_own_size_is_no_gate() -> None:
    """RMS normalisation written out multiplies by what comes from the activation itself."""
    body = "a = Tanh(c) q = Mul(a, a) m = ReduceMean(q) r = Sqrt(m) i = Reciprocal(r) y = Mul(a, i)"
    assert operators(surveyed(CONVOLVED.format(body))) == [("a", "Tanh")]


def test_a_least_length_is_left() -> None:
    """What PyTorch's `normalize` divides by."""
    body = "a = Relu(c) n = ReduceL2<keepdims = 1>(a) r = Clip(n, least) d = Expand(r, size) y = Div(a, d)"
    found = surveyed(CONVOLVED.format(body), constants="float least = {1e-12}, int64[4] size = {1, 4, 4, 4}")
    assert operators(found) == [("a", "Relu")]
    assert [(each.value, each.reason) for each in found.excluded] == [("r", Exclusion.DIVISOR)]


def test_what_no_layer_reads_before_the_logits_is_left() -> None:
    body = "c = Conv(x, k) a = Relu(c) d = Conv(a, k) y = Relu(d) "
    body += "p = GlobalAveragePool(y) f = Flatten(p) logits = Sigmoid(f)"
    assert operators(surveyed(body)) == [("a", "Relu")]
    assert excluded(body) == [("y", Exclusion.AFTER_LAST_LAYER), ("logits", Exclusion.AFTER_LAST_LAYER)]


def test_what_the_logits_do_not_depend_on_is_left() -> None:
    assert excluded(CONVOLVED.format("y = Relu(c) side = Elu(c)")) == [("side", Exclusion.UNUSED)]


def test_what_lies_after_the_logits_is_left() -> None:
    found = survey(graph(CONVOLVED.format("y = Relu(c)") + " scores = Sigmoid(logits)"), "logits")
    assert [(each.value, each.reason) for each in found.excluded] == [("scores", Exclusion.AFTER_LOGITS)]


def test_channels_of_no_fixed_number_are_left_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """Attention by a ReLU has as many channels as the input has places."""
    body = "t = Transpose<perm = [0, 2, 1]>(x) q = MatMul(x, t) a = Relu(q) v = MatMul(a, x) h = MatMul(v, square) "
    body += "r = Relu(h) z = ReduceMean<keepdims = 0>(r, one) logits = MatMul(z, w)"
    model = graph(body, "n, t, 4", "int64[1] one = {1}")
    with caplog.at_level(logging.WARNING):
        assert [(site.value, site.axis, site.channels) for site in find_activations(model, "logits")] == [("r", -1, 4)]
    assert caplog.messages == ["warning: a (Relu) is not clipped: its number of channels differs between inputs"]
    fixed = find_activations(graph(body, "n, 7, 4", "int64[1] one = {1}"), "logits")
    assert [(site.value, site.axis, site.channels) for site in fixed] == [("a", -1, 7), ("r", -1, 4)]


def test_a_batch_among_the_channels_is_left() -> None:
    """Convolutions whose weights depend on the input are written as one of as many groups as there are inputs."""
    body = "c = Conv(x, k) j = Reshape(c, joined) a = Relu(j) s = Reshape(a, back) y = Relu(s) "
    body += "p = GlobalAveragePool(y) f = Flatten(p) logits = MatMul(f, w)"
    constants = "int64[4] joined = {1, -1, 4, 4}, int64[4] back = {-1, 4, 4, 4}"
    found = surveyed(body, constants=constants)
    assert operators(found) == [("y", "Relu")]
    assert [(each.value, each.reason) for each in found.excluded] == [("a", Exclusion.DYNAMIC)]


def test_channels_on_the_first_axis_are_left() -> None:
    body = "t = Transpose<perm = [1, 0]>(x) a = Relu(t) b = Transpose<perm = [1, 0]>(a) logits = MatMul(b, w)"
    assert excluded(body, "n, 4") == [("a", Exclusion.BATCH)]


def test_a_network_without_activations_is_refused() -> None:
    operators = "its operators are Exp, MatMul; provide a model with Relu or a similar activation between its layers$"
    with pytest.raises(NoActivationError, match=f"no activation to clip: {operators}"):
        find_activations(ir.from_onnx_text(HEADER + PLAIN.replace("Relu", "Exp")), "logits")


def test_a_network_of_nothing_but_gates_is_refused_by_their_names() -> None:
    body = "a = Conv(c, k) b = Conv(c, k) gate = Sigmoid(b) y = Mul(a, gate)"
    with pytest.raises(
        NoActivationError, match=r"; gate \(Sigmoid\) is not clipped: it is a gate: it multiplies another value"
    ):
        find_activations(graph(CONVOLVED.format(body)), "logits")


def test_a_network_that_is_clipped_already_is_refused() -> None:
    model = ir.from_onnx_text(HEADER + PLAIN)
    value = next(node.outputs[0] for node in model.graph if node.op_type == "Relu")
    insert_min(model.graph, value, np.ones((1,), np.float32))
    with pytest.raises(NoActivationError, match="already clipped by mmguard"):
        find_activations(model, "logits")


def test_a_value_named_as_what_is_clipped_is_refused() -> None:
    body = PLAIN.replace("logits =", "hidden_mmguard_clipped = Identity(hidden) logits =").replace(
        "MatMul(hidden", "MatMul(hidden_mmguard_clipped"
    )
    with pytest.raises(NoActivationError, match="already clipped by mmguard"):
        sites(body)


def test_an_option_selects() -> None:
    model = ir.from_onnx_text(HEADER + RESIDUAL)
    assert [site.value for site in find_activations(model, "logits", "Leaky*")] == ["end"]
    with pytest.raises(
        OptionError, match=r"sites pattern 'gelu' matches no clip site; .* one of: act \(Relu\), end \(LeakyRelu\)"
    ):
        find_activations(model, "logits", "act,gelu")


def test_the_model_stays_as_it_is() -> None:
    model = graph(CONVOLVED.format("y = Relu(c)"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    survey(model, "logits")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
