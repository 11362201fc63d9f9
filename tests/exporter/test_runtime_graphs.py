"""Plans: the user's own output, and the logits beside it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from scipy.special import log_softmax, softmax

from mmguard.exporter.classifier import LOGITS, Classifier, read_classifier
from mmguard.exporter.equality import run
from mmguard.exporter.insert_min import write_clipped
from mmguard.exporter.runtime_graphs import write_runtime_graphs
from tests.bundles import OUTPUT, Head, clean_inputs, output_spec, run_model, tiny_bounds, tiny_network
from tests.networks import write_tiny

X = clean_inputs(30)
BOUNDS = tiny_bounds(tiny_network())
FORMS = ("original", "clipped")


def write_forms(folder: Path, head: Head) -> Classifier:
    """Write `original.onnx` and `clipped.onnx`; returns the user's model."""
    classifier = read_classifier(write_tiny(folder / "original.onnx", head))
    write_clipped(classifier, BOUNDS, folder / "clipped.onnx")
    return classifier


def test_networks_that_end_in_logits_are_their_own_plans(tmp_path: Path) -> None:
    assert write_runtime_graphs(tmp_path, write_forms(tmp_path, Head.NONE)) == {form: f"{form}.onnx" for form in FORMS}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clipped.onnx", "original.onnx"]


@pytest.mark.parametrize(("head", "function"), [(Head.SOFTMAX, softmax), (Head.LOG_SOFTMAX, log_softmax)])
def test_plans_give_the_logits_beside_the_users_output(tmp_path: Path, head: Head, function: np.ufunc) -> None:
    classifier = write_forms(tmp_path, head)
    runtime_graphs, name = write_runtime_graphs(tmp_path, classifier), OUTPUT[head]
    assert classifier.output == output_spec(head)
    for form in FORMS:
        expected = run_model(tiny_network().model(BOUNDS if form == "clipped" else None), X)
        logits = run(tmp_path / runtime_graphs[form], X, LOGITS)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run(tmp_path / runtime_graphs[form], X, name), function(logits, axis=1), rtol=1e-4)
        names = [value.name for value in onnx.load(tmp_path / runtime_graphs[form]).graph.output]
        assert names == [name, LOGITS], "the user's own output stays the first"


@pytest.mark.parametrize("form", FORMS)
def test_plans_pass_the_full_checker_where_the_logits_had_no_declared_shape(tmp_path: Path, form: str) -> None:
    classifier = write_forms(tmp_path, Head.SOFTMAX)
    assert not onnx.load(tmp_path / "original.onnx").graph.value_info
    runtime_graphs = write_runtime_graphs(tmp_path, classifier)
    onnx.checker.check_model(str(tmp_path / runtime_graphs[form]), full_check=True)


def test_the_networks_themselves_stay_as_they_are(tmp_path: Path) -> None:
    classifier = write_forms(tmp_path, Head.SOFTMAX)
    before = {form: (tmp_path / f"{form}.onnx").read_bytes() for form in FORMS}
    write_runtime_graphs(tmp_path, classifier)
    assert {form: (tmp_path / f"{form}.onnx").read_bytes() for form in FORMS} == before


def test_a_plan_holds_external_weights_itself(tmp_path: Path) -> None:
    model = tiny_network(head=Head.SOFTMAX).model()
    onnx.save(model, tmp_path / "original.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    classifier = read_classifier(tmp_path / "original.onnx")
    write_clipped(classifier, BOUNDS, tmp_path / "clipped.onnx")
    runtime_graphs = write_runtime_graphs(tmp_path, classifier)
    (tmp_path / "w.data").unlink()
    expected = run_model(tiny_network().model(), X)
    np.testing.assert_allclose(run(tmp_path / runtime_graphs["original"], X, LOGITS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("head", "function"), [(Head.SOFTMAX, softmax), (Head.LOG_SOFTMAX, log_softmax)])
def test_the_tail_makes_the_users_output_of_logits(tmp_path: Path, head: Head, function: np.ufunc) -> None:
    runtime_graphs = write_runtime_graphs(tmp_path, write_forms(tmp_path, head))
    logits = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    session = ort.InferenceSession(tmp_path / runtime_graphs["head"], providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == [LOGITS]
    np.testing.assert_allclose(session.run([OUTPUT[head]], {LOGITS: logits})[0], function(logits, axis=1), rtol=1e-5)
    assert {node.op_type for node in onnx.load(tmp_path / runtime_graphs["head"]).graph.node} == {"Cast", head.value}
