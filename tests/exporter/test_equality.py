"""The check of an exported network on real inputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from mmguard.errors import GraphMismatchError, NotOnnxError
from mmguard.exporter.equality import check_export, run
from tests.bundles import Array, clean_inputs, run_model, tiny_network
from tests.networks import write_tiny

X = clean_inputs(230)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "clipped.onnx")


@pytest.fixture(scope="module")
def logits() -> Array:
    return run_model(tiny_network().model(), X)


def test_batches_are_put_together_in_order(path: Path, logits: Array) -> None:
    got = run(path, X, "logits")
    assert got.shape == logits.shape
    np.testing.assert_allclose(got, logits, rtol=1e-4, atol=1e-5)


def test_equal_logits_pass_with_their_difference(path: Path, logits: Array) -> None:
    assert 0 <= check_export(path, X, logits, "logits") < 1e-5


@pytest.mark.parametrize("row", [0, 229])
def test_one_wrong_logit_is_refused(path: Path, logits: Array, row: int) -> None:
    wrong = logits.copy()
    wrong[row, 1] += 1e-3 * np.abs(logits).max()
    with pytest.raises(
        GraphMismatchError,
        match=r"expected clipped.onnx to return the same logits .* but the largest difference is 0.001",
    ):
        check_export(path, X, wrong, "logits")


def test_a_wrong_nan_or_infinite_logit_is_refused(path: Path, logits: Array) -> None:
    for value in (np.nan, np.inf, -np.inf):
        wrong = logits.copy()
        wrong[3, 0] = value
        with pytest.raises(GraphMismatchError, match="no bundle is written"):
            check_export(path, X, wrong, "logits")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_equal_logits_that_are_not_finite_are_refused(path: Path, value: float) -> None:
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "finite"
    addend = onnx.helper.make_tensor("addend", onnx.TensorProto.FLOAT, [1], [value])
    model.graph.initializer.append(addend)
    model.graph.node.append(onnx.helper.make_node("Add", ["finite", "addend"], ["logits"]))
    onnx.save(model, path)
    with pytest.raises(GraphMismatchError, match="finite logits, but some are NaN or infinite; no bundle is written"):
        check_export(path, X, run(path, X, "logits"), "logits")


def test_the_full_checker_reads_the_file_first(path: Path, logits: Array) -> None:
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, path)
    with pytest.raises(NotOnnxError, match="ONNX's checker rejects the exported network"):
        check_export(path, X, logits, "logits")
