"""The comparison with ONNX Runtime: silent where the two agree, precise where they do not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from mmguard.calibrate.graph.compare import assert_matches_onnxruntime
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.operators import OPERATORS, Node, operator
from mmguard.errors import GraphMismatchError

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
classifier (float[n,4] x) => (float[n,3] probabilities)
<float[4,3] w = {1.0, -2.0, 3.0, 0.5, 0.0, -1.0, 2.0, 1.5, -0.5, 1.0, 1.0, -3.0}>
{
    [lift] lifted = Sigmoid(x)
    [bend] bent = Softsign(lifted)
    [head] logits = MatMul(bent, w)
    [tail] probabilities = Softmax(logits)
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ir.save(ir.from_onnx_text(MODEL), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def x() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture
def bent_wrongly() -> Iterator[None]:
    """Softsign with a slope that is off by one percent."""
    right = OPERATORS["", "Softsign"]

    @operator("Softsign")
    def softsign(node: Node, x: Tensor) -> Tensor:
        return 1.01 * torch.nn.functional.softsign(x)

    yield
    OPERATORS["", "Softsign"] = right


@pytest.mark.parametrize("output", ["probabilities", "logits", "lifted"])
def test_agrees_on_outputs_and_on_values_inside(path: Path, x: npt.NDArray[np.float32], output: str) -> None:
    assert_matches_onnxruntime(DifferentiableGraph(ir.load(path), output), path, x, output)


@pytest.mark.usefixtures("bent_wrongly")
@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_names_the_first_node_that_differs(path: Path, x: npt.NDArray[np.float32], output: str) -> None:
    graph = DifferentiableGraph(ir.load(path), output)
    with pytest.raises(
        GraphMismatchError, match=r"first node whose output differs is Softsign 'bend' -> 'bent'"
    ) as error:
        assert_matches_onnxruntime(graph, path, x, output)
    assert (
        f"the values of {output!r} in PyTorch and in ONNX Runtime to differ by at most 0.0001 (relative difference) "
        "on 6 clean inputs"
    ) in str(error.value)


@pytest.mark.usefixtures("bent_wrongly")
def test_the_tolerance_is_the_callers(path: Path, x: npt.NDArray[np.float32]) -> None:
    assert_matches_onnxruntime(DifferentiableGraph(ir.load(path), "logits"), path, x, "logits", tolerance=0.02)


def test_the_model_itself_stays_as_it_is(path: Path, x: npt.NDArray[np.float32]) -> None:
    before = path.read_bytes()
    assert_matches_onnxruntime(DifferentiableGraph(ir.load(path), "logits"), path, x, "logits")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_external_weights_are_found(path: Path, x: npt.NDArray[np.float32]) -> None:
    ir.save(ir.load(path), path.with_name("split.onnx"), external_data="split.data", size_threshold_bytes=0)
    split = path.with_name("split.onnx")
    assert_matches_onnxruntime(DifferentiableGraph(ir.load(split), "logits"), split, x, "logits")


def test_another_files_weights_are_a_mismatch(path: Path, x: npt.NDArray[np.float32], tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    ir.save(ir.from_onnx_text(MODEL.replace("1.0, -2.0", "1.5, -2.0")), other)
    graph = DifferentiableGraph(ir.load(other), "logits")
    with pytest.raises(GraphMismatchError, match="MatMul 'head' -> 'logits'"):
        assert_matches_onnxruntime(graph, path, x, "logits")


def test_values_that_are_not_numbers_are_a_mismatch(path: Path, x: npt.NDArray[np.float32]) -> None:
    x[0, 0] = np.nan
    with pytest.raises(GraphMismatchError, match="nan"):
        assert_matches_onnxruntime(DifferentiableGraph(ir.load(path), "logits"), path, x, "logits")
