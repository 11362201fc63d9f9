"""The clipped network: a Min after each activation, and nothing else."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.equality import check_export, run
from mmguard.exporter.insert_min import write_clipped
from mmguard.exporter.sites import find_activations
from tests.bundles import Array, clean_inputs, tiny_network
from tests.networks import HEADER, PLAIN, RESIDUAL, residual_inputs, write_text

BOUNDS = {
    "act": np.array([0.5, 0.25], np.float32).reshape(2, 1, 1),
    "end": np.array([0.0, 1.0], np.float32).reshape(2, 1, 1),
}


def clip(
    folder: Path, body: str = RESIDUAL, header: str = HEADER, bounds: dict[str, Array] = BOUNDS
) -> onnx.ModelProto:
    write_clipped(read_classifier(write_text(folder, body, header)), bounds, folder / "clipped.onnx")
    return onnx.load(folder / "clipped.onnx")


def consumers(model: onnx.ModelProto, value: str) -> list[tuple[str, int]]:
    """(operator, position) of every node that reads a value."""
    return [(node.op_type, i) for node in model.graph.node for i, name in enumerate(node.input) if name == value]


def test_every_activation_gets_one_min_with_its_bound(tmp_path: Path) -> None:
    model = clip(tmp_path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    minima = [node for node in model.graph.node if node.op_type == "Min"]
    assert [node.input[0] for node in minima] == ["act", "end"]
    for node in minima:
        np.testing.assert_array_equal(constants[node.input[1]], BOUNDS[node.input[0]])
        assert consumers(model, node.input[0]) == [("Min", 0)], "what follows reads the clipped value alone"


def test_both_consumers_of_a_residual_block_read_the_clipped_value(tmp_path: Path) -> None:
    assert consumers(clip(tmp_path), "act_mmguard_clipped") == [("Conv", 0), ("Add", 1)]


def test_a_consumer_that_reads_a_value_twice_reads_it_clipped_twice(tmp_path: Path) -> None:
    model = clip(tmp_path, RESIDUAL.replace("Add(two, act)", "Add(act, act)"))
    assert consumers(model, "act_mmguard_clipped") == [("Conv", 0), ("Add", 0), ("Add", 1)]


def test_an_activation_that_is_an_output_too_stays_one_unclipped(tmp_path: Path) -> None:
    path = write_text(tmp_path, PLAIN.replace("float[n,3] logits)", "float[n,3] logits, float[n,4] hidden)"))
    classifier = read_classifier(path, "logits")
    write_clipped(classifier, {"hidden": np.zeros(4, np.float32)}, path)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(run(path, x, "hidden"), x)
    np.testing.assert_array_equal(run(path, x, "logits"), np.zeros((2, 3)))


def without_bounds(model: onnx.ModelProto) -> bytes:
    """The model with the Min nodes and the bounds taken out again."""
    originals = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Min"}
    for node in [node for node in model.graph.node if node.op_type == "Min"]:
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [originals.get(name, name) for name in node.input]
    for field in (model.graph.initializer, model.graph.value_info):
        for entry in [entry for entry in field if "_mmguard_" in entry.name]:
            field.remove(entry)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def test_nothing_else_is_changed(tmp_path: Path) -> None:
    clipped = clip(tmp_path)
    assert len(clipped.graph.node) == 8 + 2
    # onnx-ir writes some defaults out, so the original goes through it as well.
    ir.save(ir.load(tmp_path / "model.onnx"), tmp_path / "again.onnx")
    original = onnx.load(tmp_path / "again.onnx")
    assert without_bounds(clipped) == original.SerializeToString(deterministic=True)


def test_the_users_file_and_model_stay_as_they_are(tmp_path: Path) -> None:
    path = write_text(tmp_path, RESIDUAL)
    content, classifier = path.read_bytes(), read_classifier(path)
    write_clipped(classifier, BOUNDS, tmp_path / "clipped.onnx")
    assert path.read_bytes() == content
    assert [node.op_type for node in classifier.model.graph].count("Min") == 0


def test_it_computes_what_the_differentiable_graph_computes_with_bounds(tmp_path: Path) -> None:
    clip(tmp_path)
    x = 3 * residual_inputs(20)
    graph = DifferentiableGraph(ir.load(tmp_path / "model.onnx"), "logits")
    expected = graph(torch.from_numpy(x), {value: torch.from_numpy(bound) for value, bound in BOUNDS.items()}).numpy()
    assert np.abs(expected - graph(torch.from_numpy(x)).numpy()).max() > 0.1, "the bounds bite"
    assert check_export(tmp_path / "clipped.onnx", x, expected, "logits") < 1e-5


def test_a_model_of_an_ir_version_whose_initialisers_are_inputs_is_clipped(tmp_path: Path) -> None:
    model = tiny_network().model()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version, model.opset_import[0].version = 3, 8
    onnx.save(model, tmp_path / "model.onnx")
    write_clipped(
        read_classifier(tmp_path / "model.onnx"),
        {"relu1": np.full((4, 1, 1), 1e6, np.float32)},
        tmp_path / "clipped.onnx",
    )
    x = clean_inputs(5)
    check_export(tmp_path / "clipped.onnx", x, run(tmp_path / "model.onnx", x, "logits"), "logits")
    assert [value.name for value in onnx.load(tmp_path / "clipped.onnx").graph.input] == ["image"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model by PyTorch's own exporter, its weights in a file beside it."""
    path = tmp_path_factory.mktemp("external") / "net.onnx"
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    )
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 3, 8, 8),),
            str(path),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    return path


def test_external_weights_stay_outside_and_where_they_were(exported: Path) -> None:
    data = exported.with_name("net.onnx.data")
    content, classifier = data.read_bytes(), read_classifier(exported)
    (activation,) = find_activations(classifier.model, classifier.output.logits)
    site = activation.value
    clipped, x = exported.with_name("clipped.onnx"), clean_inputs(6)
    bound = np.full((8, 1, 1), 0.1, np.float32)
    write_clipped(classifier, {site: bound}, clipped)
    assert data.read_bytes() == content
    assert read_classifier(clipped).external_files == (Path("net.onnx.data"),)
    graph = DifferentiableGraph(classifier.model, classifier.output.logits)
    expected = graph(torch.from_numpy(x), {site: torch.from_numpy(bound)}).numpy()
    check_export(clipped, x, expected, classifier.output.logits)
