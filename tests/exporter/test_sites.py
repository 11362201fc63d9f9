"""Which values get a bound."""

import numpy as np
import onnx_ir as ir
import pytest

from mmguard.errors import NoActivationError
from mmguard.exporter import find_activations
from mmguard.exporter.clip import insert_min
from mmguard.exporter.sites import ACTIVATIONS
from tests.networks import HEADER, PLAIN, RESIDUAL

NEWEST = '<ir_version: 10, opset_import: ["" : 24]>'


def sites(body: str, logits: str = "logits", header: str = HEADER) -> list[tuple[str, str]]:
    return [(site.value, site.operator) for site in find_activations(ir.from_onnx_text(header + body), logits)]


def axes(body: str) -> dict[str, int]:
    text = HEADER + f"g (float[N, 4, 4, 4] x) => (float[N, 4] logits) <float[4, 4] w, float[4, 4, 1, 1] k> {{ {body} }}"
    return {site.value: site.axis for site in find_activations(ir.from_onnx_text(text), "logits")}


END = "flat = ReduceMean<axes = [2, 3], keepdims = 0>({}) logits = MatMul(flat, w)"


def test_channels_are_the_first_axis_after_a_convolution_and_the_last_after_a_matrix_product() -> None:
    assert axes("c = Conv(x, k) a = Relu(c) s = Add(a, x) b = Relu(s) " + END.format("b")) == {"a": 1, "b": 1}
    assert axes("t = Transpose<perm = [0, 2, 3, 1]>(x) m = MatMul(t, w) a = Relu(m) " + END.format("a")) == {"a": -1}


def test_a_value_times_its_own_gate_is_a_site() -> None:
    assert axes("c = Conv(x, k) g = Sigmoid(c) a = Mul(c, g) " + END.format("a")) == {"a": 1}
    with pytest.raises(NoActivationError):
        axes("c = Conv(x, k) d = Conv(c, k) g = Sigmoid(d) a = Mul(c, g) " + END.format("a"))


def test_an_activation_of_weights_is_left() -> None:
    assert axes("p = Relu(k) c = Conv(x, p) a = Relu(c) " + END.format("a")) == {"a": 1}


def test_a_network_that_is_clipped_already_is_refused() -> None:
    model = ir.from_onnx_text(HEADER + PLAIN)
    value = next(node.outputs[0] for node in model.graph if node.op_type == "Relu")
    insert_min(model.graph, value, np.ones((1,), np.float32))
    with pytest.raises(NoActivationError, match="clipped by mmguard already"):
        find_activations(model, "logits")


def test_activations_come_in_the_graphs_order() -> None:
    assert sites(RESIDUAL) == [("act", "Relu"), ("end", "LeakyRelu")]


@pytest.mark.parametrize("operator", sorted(ACTIVATIONS))
def test_every_activation_is_a_site(operator: str) -> None:
    slope = ", slope" if operator == "PRelu" else ""
    body = PLAIN.replace("Relu(x)", f"{operator}(x{slope})").replace(
        "<float", "<float[4] slope = {1.0, 1.0, 1.0, 1.0}, float"
    )
    assert sites(body, header=NEWEST) == [("hidden", operator)]


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh", "HardSigmoid", "Softsign", "Exp"])
def test_a_network_without_activations_is_refused(operator: str) -> None:
    operators = ", ".join(sorted(("MatMul", operator)))
    with pytest.raises(NoActivationError, match=f"no activation to clip: its operators are {operators}, and a bound"):
        sites(PLAIN.replace("Relu", operator))


def test_logits_that_are_an_activation_stay_unclipped() -> None:
    body = PLAIN.replace("logits = MatMul(hidden, w)", "raw = MatMul(hidden, w) logits = Relu(raw)")
    assert sites(body) == [("hidden", "Relu")]


def test_what_the_logits_do_not_depend_on_is_left() -> None:
    body = PLAIN.replace("logits =", "side = Relu(x) late = Elu(side) logits =")
    assert sites(body) == [("hidden", "Relu")]


def test_what_lies_after_the_logits_is_left() -> None:
    body = PLAIN.replace("] logits)", "] scores)").replace("w)\n}", "w)\n    scores = Relu(logits)\n}")
    assert sites(body) == [("hidden", "Relu")]


def test_an_operator_of_another_domain_is_left() -> None:
    body = PLAIN.replace("logits =", "own = com.example.Relu(hidden) logits =").replace("MatMul(hidden", "MatMul(own")
    header = '<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>'
    assert sites(body, header=header) == [("hidden", "Relu")]
