"""What is a classifier, and every refusal with the message that the user reads."""

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from mmguard.errors import NotClassifierError, NotOnnxError, UnsupportedOperatorError
from mmguard.exporter import read_classifier
from mmguard.manifest import OutputSpec
from mmguard.types import Tail
from tests.bundles import tiny_network
from tests.networks import HEADER, PLAIN, RESIDUAL, declare, write_text

Change = Callable[[onnx.ModelProto], object]


def write_changed(folder: Path, change: Change, tail: Tail = Tail.NONE) -> Path:
    model = tiny_network(tail=tail).model()
    change(model)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def write_external(folder: Path, location: str) -> Path:
    """A model whose weights lie in another file; the format itself restricts no name below the model's folder."""
    path, data = folder / "model.onnx", folder / location
    data.parent.mkdir(exist_ok=True)
    ir.save(ir.from_onnx_text(HEADER + RESIDUAL), path, external_data=location, size_threshold_bytes=0)
    return path


def test_a_classifier_is_read(tmp_path: Path) -> None:
    classifier = read_classifier(write_text(tmp_path, RESIDUAL))
    assert (classifier.input_name, classifier.input_shape) == ("x", (None, 2, 4, 4))
    assert classifier.output == OutputSpec("logits", "logits", Tail.NONE)
    assert classifier.external_files() == []


@pytest.mark.parametrize(("operator", "tail"), [("Softmax", Tail.SOFTMAX), ("LogSoftmax", Tail.LOG_SOFTMAX)])
@pytest.mark.parametrize("axis", ["", "<axis = 1>", "<axis = -1>"])
@pytest.mark.parametrize("end", ["scores = {}(raw)", "inner = {}(raw) scores = Identity(inner)"])
def test_the_logits_before_a_tail_are_found(tmp_path: Path, operator: str, tail: Tail, axis: str, end: str) -> None:
    body = PLAIN.replace("] logits)", "] scores)").replace("logits =", "raw =").replace("}\n", "}")
    body = body.rstrip().removesuffix("}") + end.format(operator + axis) + "\n}"
    assert read_classifier(write_text(tmp_path, body)).output == OutputSpec("scores", "raw", tail)


def test_a_softmax_over_the_batch_is_no_tail(tmp_path: Path) -> None:
    body = PLAIN.replace("logits = MatMul(hidden, w)", "raw = MatMul(hidden, w) logits = Softmax<axis = 0>(raw)")
    assert read_classifier(write_text(tmp_path, body)).output == OutputSpec("logits", "logits", Tail.NONE)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is not a valid ONNX model"), (b"\xff" * 300, "Unable to parse"), (b"PK\x03\x04 zipped", "Unable to parse")],
)
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(NotOnnxError, match=message):
        read_classifier(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_truncated_model_is_refused(tmp_path: Path, share: float) -> None:
    path = write_text(tmp_path, RESIDUAL)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(NotOnnxError, match="is not a valid ONNX model"):
        read_classifier(path)


@pytest.mark.parametrize("name", ["none.onnx", "."])
def test_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotOnnxError, match="no such file"):
        read_classifier(tmp_path / name)


def test_a_graph_that_onnx_refuses_is_refused(tmp_path: Path) -> None:
    path = write_changed(tmp_path, lambda model: model.graph.node.pop(0))
    with pytest.raises(NotOnnxError, match=r"is not a valid ONNX model.*conv1"):
        read_classifier(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("float[n,4] x)", "float[n,4] x, float[n] mask)", r"has 2 inputs \(x, mask\); a model of exactly one input"),
        ("float[n,3] logits)", "float[n,3] logits, float[n,4] hidden)", r"has 2 outputs \(logits, hidden\)"),
        ("float[n,4] x", "float16[n,4] x", "input 'x' is FLOAT16, float32 is needed"),
        ("float[n,4] x", "float[1,4] x", r"fixed batch of 1; export it with a dynamic batch axis \(torch.onnx.export"),
        ("float[n,4] x", "float[n] x", r"input 'x' needs a declared shape \(N, ...\)"),
        ("float[n,3] logits", "float[n,1] logits", "output 'logits' has one column; at least two classes"),
        ("float[n,3] logits", "float[n,3,1] logits", r"a classifier gives float32 scores of shape \(N, K\)"),
        ("float[n,3] logits", "int64[n,3] logits", "output 'logits' is INT64 .*float32 scores"),
    ],
)
def test_what_is_no_classifier_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PLAIN
    with pytest.raises(NotClassifierError, match=message):
        read_classifier(write_text(tmp_path, PLAIN.replace(old, new)))


@pytest.mark.parametrize("end", ["input", "output"])
def test_an_undeclared_shape_is_refused(tmp_path: Path, end: str) -> None:
    def forget(model: onnx.ModelProto) -> None:
        getattr(model.graph, end)[0].type.tensor_type.ClearField("shape")

    with pytest.raises(NotOnnxError, match="'shape' of 'type' is required but missing"):
        read_classifier(write_changed(tmp_path, forget))


def test_an_initialiser_that_is_an_input_too_is_no_second_input(tmp_path: Path) -> None:
    def expose(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))

    assert read_classifier(write_changed(tmp_path, expose)).input_name == "image"


def test_a_label_as_output_is_refused(tmp_path: Path) -> None:
    def decide(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
        declare(model, "label", "N").graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64

    with pytest.raises(NotClassifierError, match=r"'label' is INT64 of shape .*float32 scores of shape \(N, K\)"):
        read_classifier(write_changed(tmp_path, decide))


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path, PLAIN, '<ir_version: 4, opset_import: ["" : 7]>')
    with pytest.raises(UnsupportedOperatorError, match=r"opset 7, at least 8 is needed; convert it: onnx.version_conv"):
        read_classifier(path)


def test_local_functions_are_refused(tmp_path: Path) -> None:
    body = PLAIN.replace("Relu(x)", "local.bend(x)") + (
        '<domain: "local", opset_import: ["" : 17]> bend (a) => (b) { b = Relu(a) }'
    )
    path = write_text(tmp_path, body, '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>')
    with pytest.raises(UnsupportedOperatorError, match=r"defines functions \(bend\); inline them first"):
        read_classifier(path)


@pytest.mark.parametrize("location", ["model.onnx.data", "weights/part.bin", "my weights (1).data"])
def test_external_weights_are_listed(tmp_path: Path, location: str) -> None:
    assert read_classifier(write_external(tmp_path, location)).external_files() == [Path(location)]


@pytest.mark.parametrize("location", ["manifest.json", "clipped.onnx", "plans/part.bin"])
def test_external_weights_that_a_bundle_cannot_hold_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(NotOnnxError, match=f"keeps weights in '{location}', where a bundle keeps a file of its own"):
        read_classifier(write_external(tmp_path, location))


def test_missing_external_weights_are_named(tmp_path: Path) -> None:
    path = write_external(tmp_path, "weights.data")
    (tmp_path / "weights.data").unlink()
    with pytest.raises(NotOnnxError, match=r"weights\.data"):
        read_classifier(path)


def test_truncated_external_weights_are_named(tmp_path: Path) -> None:
    path, data = write_external(tmp_path, "weights.data"), tmp_path / "weights.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(NotOnnxError, match=r"up to byte \d+ of 'weights.data', which has \d+; copy that file again"):
        read_classifier(path)
