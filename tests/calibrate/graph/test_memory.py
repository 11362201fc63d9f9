"""How many inputs a pass takes."""

import onnx_ir as ir
import pytest
import torch

from mmguard.calibrate.graph import memory
from mmguard.calibrate.graph.differentiable import DifferentiableGraph

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},3] x) => (float[{batch},3] y) { {body} }'
GROWING = "a = Relu(x) y = Add(a, a)"  # 6 numbers an input


def graph(body: str, batch: str) -> DifferentiableGraph:
    text = TEXT.replace("{batch}", batch).replace("{body}", body)
    return DifferentiableGraph(ir.from_onnx_text(text), "y")


@pytest.mark.parametrize("batch", ["n", "2", "1"])
@pytest.mark.parametrize(("numbers", "expected"), [(1, 1), (60, 10), (65, 10), (10_000, 200)])
def test_as_many_inputs_as_hold_the_numbers(
    batch: str, numbers: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "NUMBERS", numbers)
    assert memory.inputs_per_pass(graph(GROWING, batch), torch.randn(5, 3), 200) == expected


def test_what_does_not_grow_with_the_batch_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "NUMBERS", 60)
    body = (
        "shape = Constant<value_ints = [1000]>() m = ReduceMax<keepdims = 0>(x) w = Expand(m, shape)"
        " r = ReduceMax<keepdims = 0>(w) a = Relu(x) y = Add(a, r)"
    )
    assert memory.inputs_per_pass(graph(body, "n"), torch.randn(5, 3), 200) == 10
