"""Which values get a bound."""

import onnx_ir as ir
import pytest

from mmguard.errors import NoActivationError
from mmguard.exporter import find_activations
from mmguard.exporter.sites import ACTIVATIONS
from tests.networks import HEADER, PLAIN, RESIDUAL

NEWEST = '<ir_version: 10, opset_import: ["" : 24]>'


def sites(body: str, logits: str = "logits", header: str = HEADER) -> list[tuple[str, str]]:
    return find_activations(ir.from_onnx_text(header + body), logits)


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
