"""Bounds on values that are not float32 are written in the value's own dtype."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.equality import run
from mmguard.exporter.insert_min import in_dtype, write_clipped
from mmguard.exporter.sites import find_activations
from tests.bundles import Array
from tests.networks import write_text

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
CAST = """
cast (float[n,4] x) => (float[n,3] logits)
<float[4,3] w = {{1.0, -2.0, 3.0, 0.5, 0.0, -1.0, 2.0, 1.5, -0.5, 1.0, 1.0, -3.0}}>
{{
    inner = Cast<to = {}>(x)
    hidden = Relu(inner)
    outer = Cast<to = 1>(hidden)
    logits = MatMul(outer, w)
}}
"""
"""Declares no type of the values in between."""

BOUND = np.array([0.1, 1.0, 3.0, 1e6], np.float32)


def clip(folder: Path, dtype: ir.DataType) -> Path:
    path = write_text(folder, CAST.format(dtype.value), HEADER)
    classifier = read_classifier(path)
    (site,) = find_activations(classifier.model, "logits")
    write_clipped(classifier, {site.value: BOUND}, folder / "clipped.onnx")
    return folder / "clipped.onnx"


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE])
def test_a_bound_has_the_dtype_of_its_value(tmp_path: Path, dtype: ir.DataType) -> None:
    model = onnx.load(clip(tmp_path, dtype))
    onnx.checker.check_model(model, full_check=True)
    (tensor,) = (each for each in model.graph.initializer if each.name.endswith("_bound"))
    assert tensor.data_type == dtype.value
    assert np.isfinite(numpy_helper.to_array(tensor).astype(np.float64)).all()


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_the_clipped_network_is_what_was_learned(tmp_path: Path, dtype: ir.DataType) -> None:
    path = clip(tmp_path, dtype)
    x: Array = 4 * np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    graph = DifferentiableGraph(ir.load(tmp_path / "model.onnx"), "logits")
    expected = graph(torch.from_numpy(x), {"hidden": torch.from_numpy(BOUND)}).numpy()
    np.testing.assert_allclose(run(path, x, "logits"), expected, rtol=1e-6, atol=1e-6)
    assert np.abs(run(path, x, "logits") - run(tmp_path / "model.onnx", x, "logits")).max() > 1


def test_a_bound_is_rounded_to_the_nearest_as_pytorch_does() -> None:
    bounds = np.random.default_rng(0).uniform(-9, 9, 1000).astype(np.float32)
    for dtype, other in ((ir.DataType.FLOAT16, torch.float16), (ir.DataType.BFLOAT16, torch.bfloat16)):
        rounded = in_dtype(bounds, dtype).astype(np.float32)
        np.testing.assert_array_equal(rounded, torch.from_numpy(bounds).to(other).float().numpy())


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(ir.DataType.FLOAT16, 65504.0), (ir.DataType.BFLOAT16, 3.3895313892515355e38), (ir.DataType.DOUBLE, 3.4e38)],
)
def test_a_bound_beyond_the_range_is_the_largest_number(dtype: ir.DataType, limit: float) -> None:
    bound = in_dtype(np.array([3.4e38, -3.4e38], np.float32), dtype).astype(np.float64)
    np.testing.assert_allclose(bound, [limit, -limit], rtol=1e-7)
