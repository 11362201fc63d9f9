"""Networks that take batches of one size, and activations that have the batch among their other axes."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.bounds import Bounds
from mmguard.calibrate.site_clipping import measure_clipping

X = (
    np.random.default_rng(0).normal(size=(7, 5, 4)).astype(np.float32)
    * np.linspace(1, 3, 7, dtype=np.float32)[:, None, None]
)
BODIES = {
    "rows of tokens": "shape = Constant<value_ints = [-1, 4]>() t = Reshape(x, shape) r = Relu(t) y = Reshape(r, back)",
    "tokens first": "t = Transpose<perm = [1, 0, 2]>(x) r = Relu(t) y = Transpose<perm = [1, 0, 2]>(r)",
    "batch first": "r = Relu(x) y = Identity(r)",
}


def graph(body: str, batch: str) -> DifferentiableGraph:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},5,4] x) => (float[{batch},5,4] y)
    {{ back = Constant<value_ints = [-1, 5, 4]>() {body} }}"""
    return DifferentiableGraph(ir.from_onnx_text(text), "y")


@pytest.mark.parametrize("batch", ["n", "1", "3"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bounds_start_from_the_range_over_all_inputs(body: str, batch: str) -> None:
    bounds = Bounds.over(graph(body, batch), {"r": -1}, iter(torch.from_numpy(X).split(4)))
    np.testing.assert_array_equal(bounds.fixed()["r"].ravel(), np.maximum(X, 0).max((0, 1)))


@pytest.mark.parametrize("batch", ["n", "1", "3"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_clipping_is_counted_by_input(body: str, batch: str) -> None:
    bound = np.full(4, 2.5, np.float32)
    (found,) = measure_clipping(graph(body, batch), {"r": -1}, {"r": bound}, X)
    if (batch, body) != ("3", BODIES["tokens first"]):  # where a fixed batch cannot be told from the tokens
        assert found.values == pytest.approx((X > 2.5).mean())
        assert found.inputs == pytest.approx((X > 2.5).any((1, 2)).mean())
    assert found.inputs <= 1
