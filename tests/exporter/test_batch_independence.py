"""Models whose answer to an input depends on the rest of the batch are refused, others are accepted."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mmguard.errors import BatchDependentError
from mmguard.exporter.add_logits import file_with_logits
from mmguard.exporter.batch_independence import check_batch_independence
from mmguard.exporter.classifier import read_classifier
from tests.bundles import Array
from tests.networks import HEADER

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
TOLERANCE = 1e-4

DEPENDENT = {
    "a softmax over the batch": "p = Softmax<axis = 0>(raw)",
    "a mean over the batch": "m = ReduceMean<axes = [0]>(raw) p = Sub(raw, m)",
    "the largest of the batch": "m = ReduceMax<axes = [0]>(raw) p = Div(raw, m)",
    "the size of the batch": "s = Shape(raw) f = Cast<to = 1>(s) z = Constant<value_ints = [0]>()"
    " g = Gather(f, z) p = Mul(raw, g)",
    "the place in the batch": "p = CumSum(raw, zero)",
    "the inputs before the network": "p = Identity(raw)",
}


def write(path: Path, end: str, outputs: str = "float[n,3] p", before: str = "", batch: str = "n") -> Path:
    """A small network with more before and after it."""
    values = ", ".join(f"{value:.2f}" for value in np.random.default_rng(1).normal(size=12))
    body = f"""{HEADER}
    net (float[n,4] x) => ({outputs}) <float[4,3] w = {{{values}}}, int64 zero = {{0}}>
    {{ {before or "near = Identity(x)"} hidden = Relu(near) raw = MatMul(hidden, w) {end} }}"""
    ir.save(ir.from_onnx_text(body.replace("[n,", f"[{batch},")), path)
    return path


def change(path: Path) -> float:
    classifier = read_classifier(path)
    with file_with_logits(classifier) as scored:
        return check_batch_independence(scored, X, classifier.output, TOLERANCE)


def answers(path: Path, x: Array) -> Array:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"x": x})[0]
    return result


CASES = [(why, batch) for why in DEPENDENT for batch in ("n", "4") if (why, batch) != ("the size of the batch", "4")]


@pytest.mark.parametrize(("why", "batch"), CASES)
def test_answers_that_depend_on_the_batch_are_refused(tmp_path: Path, why: str, batch: str) -> None:
    before = "m = ReduceMean<axes = [0]>(x) near = Sub(x, m)" if why == "the inputs before the network" else ""
    path = write(tmp_path / "model.onnx", DEPENDENT[why], before=before, batch=batch)
    batches = [[0, 1, 2, 3], [3, 2, 1, 0], [0, 7, 8, 9], *([[0], [0, 1]] if batch == "n" else [])]
    of_first = np.stack([answers(path, X[rows])[rows.index(0)] for rows in batches])
    assert np.ptp(of_first, axis=0).max() > 0.01, "so it is"
    with pytest.raises(
        BatchDependentError,
        match=r"'p' for the same input differs between batches by .* export the model in evaluation mode",
    ):
        change(path)


@pytest.mark.parametrize("batch", ["n", "1", "4", "30"])
def test_answers_that_do_not_are_taken(tmp_path: Path, batch: str) -> None:
    assert change(write(tmp_path / "model.onnx", "p = Softmax(raw)", batch=batch)) < 1e-6


def test_a_label_that_others_change_is_refused_though_the_logits_are_each_input_s_own(tmp_path: Path) -> None:
    end = "m = ReduceMean<axes = [0]>(raw) c = Sub(raw, m) label = ArgMax<axis = 1, keepdims = 0>(c)"
    path = write(tmp_path / "model.onnx", end, "float[n,3] raw, int64[n] label")
    assert read_classifier(path).output.derived == ("label",)
    with pytest.raises(
        BatchDependentError, match="'label' for the same input differs between batches although the logits are the same"
    ):
        change(path)


def test_normalisation_by_the_batch_is_refused(tmp_path: Path) -> None:
    """As of a model that was exported while it trained."""
    end = "m = ReduceMean<axes = [0]>(raw) c = Sub(raw, m) s = Mul(c, c) v = ReduceMean<axes = [0]>(s)"
    end += " d = Sqrt(v) p = Div(c, d)"
    with pytest.raises(BatchDependentError):
        change(write(tmp_path / "model.onnx", end))


def test_outputs_that_are_nan_alone_and_among_others_are_no_change(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", "n = Neg(raw) p = Log(n)")
    assert np.isnan(answers(path, X)).any()
    assert change(path) < 1e-6
