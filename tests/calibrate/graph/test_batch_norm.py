"""Batch norm fused into convolutions: the result stays the same, and what cannot be fused is left alone."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from mmguard.calibrate.graph.differentiable import DifferentiableGraph

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
STATISTICS = "float[4] s = {1.5, -2.0, 0.1, 3.0}, float[4] t = {0.5, 0.0, -1.0, 2.0}, " + (
    "float[4] m = {0.1, -0.3, 2.0, 0.0}, float[4] v = {0.5, 2.0, 1e-4, 0.0}"
)


def model(body: str, weights: str) -> ir.Model:
    signature = "net (float[n,2,5,5] x) => (float[n,4,d,d] y)"
    return ir.from_onnx_text(f"{HEADER} {signature} <{weights}, {STATISTICS}> {{{body}}}")


def tensor(name: str, *shape: int) -> str:
    values = np.random.default_rng(len(name)).normal(size=shape).round(3).ravel().tolist()
    return f"float[{','.join(map(str, shape))}] {name} = {{{', '.join(map(str, values))}}}"


CASES = {
    "with bias": ("c = Conv(x, w, b)  y = BatchNormalization(c, s, t, m, v)", tensor("w", 4, 2, 3, 3), True),
    "without bias, two groups, strides and pads": (
        "c = Conv<group = 2, strides = [2, 2], pads = [1, 1, 1, 1]>(x, g)"
        " y = BatchNormalization<epsilon = 0.01>(c, s, t, m, v)",
        tensor("g", 4, 1, 3, 3),
        True,
    ),
    "read twice": (
        "c = Conv(x, w, b)  n = BatchNormalization(c, s, t, m, v)  y = Add(n, c)",
        tensor("w", 4, 2, 3, 3),
        False,
    ),
    "an activation between": (
        "c = Conv(x, w, b)  r = Relu(c)  y = BatchNormalization(r, s, t, m, v)",
        tensor("w", 4, 2, 3, 3),
        False,
    ),
    "weights that depend on the input": (
        "k = ReduceMean<keepdims = 0>(x)  u = Mul(w, k)  c = Conv(x, u, b)  y = BatchNormalization(c, s, t, m, v)",
        tensor("w", 4, 2, 3, 3),
        False,
    ),
}


@pytest.mark.parametrize(("body", "weights", "fuses"), CASES.values(), ids=CASES)
def test_the_result_is_that_of_the_graph_as_written(body: str, weights: str, fuses: bool) -> None:
    written = model(body, f"{weights}, {tensor('b', 4)}")
    graph = DifferentiableGraph(written, "y")
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 5)).astype(np.float32)
    (expected,) = ReferenceEvaluator(ir.to_proto(written)).run(None, {"x": x})
    torch.testing.assert_close(graph(torch.from_numpy(x)), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
    assert ("c" not in graph.values) == fuses


def test_a_convolution_that_is_the_output_is_kept() -> None:
    body = "y = Conv(x, w, b)  n = BatchNormalization(y, s, t, m, v)"
    graph = DifferentiableGraph(model(body, f"{tensor('w', 4, 2, 3, 3)}, {tensor('b', 4)}"), "y")
    assert graph.values == ("y",)
