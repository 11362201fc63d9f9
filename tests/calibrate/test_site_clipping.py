"""What bounds clip of the clean set, held against ONNX Runtime's own activations."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from mmguard.calibrate import site_clipping
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.site_clipping import measure_clipping
from tests.bundles import SITES, clean_inputs, run_model, tiny_bounds, tiny_network


@pytest.mark.parametrize("at_once", [1, 7, 200])
def test_shares_are_those_of_the_activations(tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_clipping, "AT_ONCE", at_once)
    network, x = tiny_network(), clean_inputs(50, seed=3)
    model, bounds = network.model(), tiny_bounds(network)
    onnx.save(model, tmp_path / "tiny.onnx")
    graph = DifferentiableGraph(ir.load(tmp_path / "tiny.onnx"), "logits")
    measured = measure_clipping(graph, {site.value: site.axis for site in SITES}, bounds, x)
    for site, found in zip(SITES, measured, strict=True):
        model.graph.output.append(helper.make_tensor_value_info(site.value, onnx.TensorProto.FLOAT, None))
        activation, bound = run_model(model, x, site.value), bounds[site.value]
        low, high = activation.min(axis=(0, 2, 3)), activation.max(axis=(0, 2, 3))
        heights = (bound.ravel() - low)[high > low] / (high - low)[high > low]
        assert found.value == site.value
        # A value within rounding of its bound may fall to either side in the two runtimes.
        assert found.values == pytest.approx((activation > bound).mean(), abs=1e-3)
        assert found.inputs == pytest.approx((activation > bound).any(axis=(1, 2, 3)).mean(), abs=0.021)
        assert found.median_height == pytest.approx(np.median(heights), rel=1e-4)


def test_a_site_without_any_range_has_no_height(tmp_path: Path) -> None:
    onnx.save(tiny_network().model(), tmp_path / "tiny.onnx")
    graph = DifferentiableGraph(ir.load(tmp_path / "tiny.onnx"), "logits")
    x = np.zeros((2, 3, 8, 8), np.float32)
    (found,) = measure_clipping(graph, {"features": -1}, {"features": np.full(6, 9, np.float32)}, x)
    assert (found.values, found.inputs, found.median_height) == (0.0, 0.0, None)
