"""What a runtime graph computes of activations, against what NumPy computes of the activations themselves."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmguard.bundle.manifest import ACTIVATIONS
from mmguard.detection.evidence import ActivationEvidence
from mmguard.errors import GraphMismatchError, NotClassifierError
from mmguard.exporter.classifier import Classifier, read_classifier
from mmguard.exporter.equality import check_activations, check_export, run
from mmguard.exporter.evidence.choose import choose_sites
from mmguard.exporter.evidence.pool import pooled_features
from mmguard.exporter.runtime_graphs import write_runtime_graphs
from mmguard.exporter.sites.find import find_activations
from mmguard.exporter.tolerance import FLOAT
from mmguard.types import EvidenceSite
from tests.bundles import Array, Head, clean_inputs, tiny_network
from tests.networks import write_tiny

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w1": RNG.normal(0, 0.5, (6, 3, 3, 3)),
    "w2": RNG.normal(0, 0.3, (5, 6, 3, 3)),
    "v": RNG.normal(0, 1, (5, 3)),
    "t1": RNG.normal(0, 0.5, (4, 7)),
    "t2": RNG.normal(0, 0.5, (7, 5)),
}
IMAGES = RNG.normal(size=(60, 3, 8, 8)).astype(np.float32)
TOKENS = RNG.normal(size=(60, 9, 4)).astype(np.float32)
ROWS = RNG.normal(size=(60, 4)).astype(np.float32)

CONVOLUTIONAL = (
    helper.make_node("Conv", ["x", "w1"], ["one"]),
    helper.make_node("Relu", ["one"], ["first"]),
    helper.make_node("Conv", ["first", "w2"], ["two"]),
    helper.make_node("LeakyRelu", ["two"], ["last"], alpha=0.1),
    helper.make_node("GlobalAveragePool", ["last"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["flat"]),
    helper.make_node("MatMul", ["flat", "v"], ["logits"]),
)
CONNECTED = (
    helper.make_node("MatMul", ["x", "t1"], ["one"]),
    helper.make_node("Relu", ["one"], ["first"]),
    helper.make_node("MatMul", ["first", "t2"], ["two"]),
    helper.make_node("LeakyRelu", ["two"], ["last"], alpha=0.1),
)
FULLY_CONNECTED = (*CONNECTED, helper.make_node("MatMul", ["last", "v"], ["logits"]))
CHANNELS_LAST = (
    *CONNECTED,
    helper.make_node("Transpose", ["last"], ["turned"], perm=[0, 2, 1]),
    helper.make_node("GlobalAveragePool", ["turned"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["flat"]),
    helper.make_node("MatMul", ["flat", "v"], ["logits"]),
)
WINDOWS = (
    helper.make_node("Reshape", ["x", "windows"], ["folded"]),
    helper.make_node("MatMul", ["folded", "t1"], ["one"]),
    helper.make_node("Relu", ["one"], ["first"]),
    helper.make_node("Reshape", ["first", "tokens"], ["unfolded"]),
    helper.make_node("MatMul", ["unfolded", "t2"], ["two"]),
    *CHANNELS_LAST[3:],
)
"""Three windows of three tokens each, folded into the batch axis, as in a Swin transformer."""
SHAPES = {"windows": np.array([-1, 3, 4]), "tokens": np.array([-1, 9, 7])}


def save(
    folder: Path,
    nodes: tuple[onnx.NodeProto, ...],
    x: Array,
    opset: int = 17,
    batch: int | None = None,
    dtype: int = TensorProto.FLOAT,
) -> Classifier:
    """Write a network of these nodes as `original.onnx` and, because nothing here clips it, as `clipped.onnx`."""
    used = {name for node in nodes for name in node.input}
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    constants = {name: array.astype(kind) for name, array in WEIGHTS.items()} | SHAPES
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", dtype, [batch or "N", *x.shape[1:]])],
        [helper.make_tensor_value_info("logits", dtype, [batch or "N", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, folder / "original.onnx")
    shutil.copyfile(folder / "original.onnx", folder / "clipped.onnx")
    return read_classifier(folder / "original.onnx")


def activations_of(path: Path, value: str, x: Array) -> Array:
    """An activation of a model, from a session of the model with this value as an output; one input at a time."""
    model = onnx.load(path)
    model.graph.output.append(helper.make_empty_tensor_value_info(value))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    kind = np.float16 if "16" in given.type else np.float32
    size = given.shape[0] if isinstance(given.shape[0], int) else 1
    parts = x.astype(kind).reshape(-1, size, *x.shape[1:])
    return np.concatenate([session.run([value], {given.name: part})[0] for part in parts]).astype(np.float32)


def features_by_hand(path: Path, site: EvidenceSite, x: Array) -> Array:
    """The mean of each channel over all positions, or its signed root, by NumPy."""
    activations = activations_of(path, site.value, x)
    means: Array = np.moveaxis(activations, site.axis, 1).reshape(len(x), activations.shape[site.axis], -1).mean(axis=2)
    return means if site.feature == "mean" else np.sign(means) * np.sqrt(np.abs(means))


def fit(
    classifier: Classifier, x: Array, sites: list[EvidenceSite] | None = None
) -> tuple[ActivationEvidence, list[Array]]:
    """Evidence of these sites, or of those that calibration would choose, and their features."""
    chosen = sites or choose_sites(find_activations(classifier.model, classifier.logits_source.value))
    usable, features = pooled_features(classifier, chosen, x)
    return ActivationEvidence.fit(usable, features, np.arange(len(x)) % 3, 3), features


def check(
    folder: Path,
    classifier: Classifier,
    x: Array,
    expected: list[str],
    tolerance: float = FLOAT,
    sites: list[EvidenceSite] | None = None,
) -> None:
    """Check the features, and then what the runtime graph returns of them, within the tolerance of an export."""
    evidence, features = fit(classifier, x, sites)
    assert [site.value for site in evidence.sites] == expected
    for site, own in zip(evidence.sites, features, strict=True):
        by_hand = features_by_hand(classifier.path, site, x)
        np.testing.assert_allclose(own, by_hand, rtol=tolerance, atol=tolerance * np.abs(by_hand).max())
    graphs = write_runtime_graphs(folder, classifier, evidence)
    assert graphs["original"] == "runtime/original.onnx"
    path, name = folder / graphs["original"], classifier.output.logits
    logits = run(path, x, name)
    check_export(path, x, run(folder / graphs["clipped"], x, name), name, tolerance)  # the same network
    read = run(path, x, ACTIVATIONS)
    assert read.dtype == np.float32
    assert read.shape == (len(x), len(expected) + 1)
    by_numpy = evidence(features, logits.argmax(axis=1))
    assert (by_numpy[:, -1] > 0).mean() > 0.3
    for column, own in zip(read.T, by_numpy.T, strict=True):
        np.testing.assert_allclose(column, own, rtol=tolerance, atol=tolerance * own.max())
    check_activations(path, x, by_numpy, tolerance)


# Split takes its sizes as an input from opset 13 on, and ReduceMean its axes from opset 18 on; opset 8 has no Sign.
@pytest.mark.parametrize("opset", [8, 12, 13, 17, 18, 20])
@pytest.mark.parametrize(
    ("nodes", "x"),
    [(CONVOLUTIONAL, IMAGES), (FULLY_CONNECTED, ROWS), (CHANNELS_LAST, TOKENS)],
    ids=["convolutional", "fully connected", "channels last"],
)
def test_the_graph_s_distances_and_excess_are_those_of_numpy(
    tmp_path: Path, nodes: tuple[onnx.NodeProto, ...], x: Array, opset: int
) -> None:
    check(tmp_path, save(tmp_path, nodes, x, opset), x, ["last", "last"])


@pytest.mark.parametrize("opset", [8, 17])
@pytest.mark.parametrize(("nodes", "x"), [(CONVOLUTIONAL, IMAGES), (CHANNELS_LAST, TOKENS)], ids=["conv", "tokens"])
def test_the_excess_is_that_of_all_sites(
    tmp_path: Path, nodes: tuple[onnx.NodeProto, ...], x: Array, opset: int
) -> None:
    axis = 1 if x is IMAGES else -1
    first, last = EvidenceSite("first", axis, "mean"), EvidenceSite("last", axis, "mean")
    sites = [first, last, EvidenceSite("last", axis, "root")]
    check(tmp_path, save(tmp_path, nodes, x, opset), x, ["first", "last", "last"], sites=sites)


def test_a_site_that_is_silent_for_all_clean_inputs_has_a_finite_excess(tmp_path: Path) -> None:
    classifier = save(tmp_path, CONVOLUTIONAL, IMAGES)
    evidence, (means, roots) = fit(classifier, IMAGES)
    silent = [np.zeros_like(each) for each in (means, roots)]
    evidence = ActivationEvidence.fit(evidence.sites, silent, np.arange(60) % 3, 3)
    path = tmp_path / write_runtime_graphs(tmp_path, classifier, evidence)["original"]
    # the size of each range is 0.01, a hundredth of the mean 1 that takes the place of 0
    np.testing.assert_allclose(run(path, IMAGES, ACTIVATIONS)[:, -1], np.abs(means).sum(axis=1) / 0.01, rtol=FLOAT)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("nodes", "x"), [(CONVOLUTIONAL, IMAGES), (CHANNELS_LAST, TOKENS)], ids=["conv", "tokens"])
def test_a_fixed_batch_size_changes_nothing(
    tmp_path: Path, nodes: tuple[onnx.NodeProto, ...], x: Array, batch: int
) -> None:
    check(tmp_path, save(tmp_path, nodes, x, batch=batch), x, ["last", "last"])


def test_a_model_in_half_precision_has_evidence_in_single_precision(tmp_path: Path) -> None:
    # ONNX Runtime may compute an operator of a float16 graph in float32, so the features differ by float16's rounding
    check(tmp_path, save(tmp_path, CONVOLUTIONAL, IMAGES, dtype=TensorProto.FLOAT16), IMAGES, ["last"] * 2, 1e-2)


def test_logits_that_are_added_and_evidence_come_side_by_side(tmp_path: Path) -> None:
    classifier, x = read_classifier(write_tiny(tmp_path / "original.onnx", Head.SOFTMAX)), clean_inputs(60)
    shutil.copyfile(tmp_path / "original.onnx", tmp_path / "clipped.onnx")
    check(tmp_path, classifier, x, ["relu2", "relu2"])
    outputs = [value.name for value in onnx.load(tmp_path / "runtime/original.onnx").graph.output]
    assert outputs == ["probabilities", classifier.output.logits, ACTIVATIONS]
    assert ACTIVATIONS not in [value.name for value in onnx.load(tmp_path / "runtime/clipped.onnx").graph.output]


@pytest.mark.parametrize("batch", [None, 1])
def test_a_site_whose_rows_are_not_inputs_is_left_out(tmp_path: Path, batch: int | None) -> None:
    """With a batch of 1, the first axis of that site has the length 3, as many as the inputs that are tried."""
    classifier = save(tmp_path, WINDOWS, TOKENS, batch=batch)
    folded, last = EvidenceSite("first", -1, "mean"), EvidenceSite("last", -1, "mean")
    sites, features = pooled_features(classifier, [folded, last], TOKENS)
    assert sites == [last]
    assert [each.shape for each in features] == [(len(TOKENS), 5)]


def test_a_site_that_overflows_is_left_out(tmp_path: Path) -> None:
    classifier = save(tmp_path, CONVOLUTIONAL, IMAGES)
    huge = np.sign(IMAGES) * np.float32(3e38)
    assert pooled_features(classifier, [EvidenceSite("last", 1, "mean")], huge) == ([], [])


def test_activations_that_are_not_those_of_calibration_are_refused(tmp_path: Path) -> None:
    classifier, x = read_classifier(write_tiny(tmp_path / "original.onnx")), clean_inputs(60)
    shutil.copyfile(tmp_path / "original.onnx", tmp_path / "clipped.onnx")
    evidence, features = fit(classifier, x)
    path = tmp_path / write_runtime_graphs(tmp_path, classifier, evidence)["original"]
    expected = evidence(features, run(path, x, classifier.output.logits).argmax(axis=1))
    above = 2 * FLOAT * expected.max(axis=0)
    each = [expected + above * (np.arange(3) == column) for column in range(3)]
    for wrong in (*each, np.full_like(expected, np.nan)):
        with pytest.raises(GraphMismatchError, match=r"expected original\.onnx to return the distances and the excess"):
            check_activations(path, x, wrong, FLOAT)


@pytest.mark.parametrize("name", [ACTIVATIONS, "mmguard_evidence_1"])
def test_a_model_with_a_value_of_a_reserved_name_is_refused(tmp_path: Path, name: str) -> None:
    model = tiny_network().model()
    model.graph.node[-2].output[0] = model.graph.node[-1].input[0] = name
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(NotClassifierError, match=f"a value of the model is named '{name}'"):
        read_classifier(tmp_path / "model.onnx")
