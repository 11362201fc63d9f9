"""What is a classifier, and every refusal with the message that the user reads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmguard.bundle.manifest import OutputSpec
from mmguard.errors import NotClassifierError, NotOnnxError, UnsupportedOperatorError
from mmguard.exporter.classifier import LOGITS, read_classifier
from mmguard.exporter.equality import run
from mmguard.exporter.insert_min import write_clipped
from mmguard.exporter.sites import find_activations
from tests.bundles import Head, tiny_network
from tests.networks import HEADER, PLAIN, RESIDUAL, write_text

Change = Callable[[onnx.ModelProto], object]


def write_changed(folder: Path, change: Change, head: Head = Head.NONE) -> Path:
    model = tiny_network(head=head).model()
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
    assert classifier.output == OutputSpec(("logits",), "logits")
    assert classifier.external_files == ()


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", ["", "<axis = 1>", "<axis = -1>"])
@pytest.mark.parametrize("end", ["scores = {}(raw)", "inner = {}(raw) scores = Identity(inner)"])
def test_the_logits_before_a_tail_are_found(tmp_path: Path, operator: str, axis: str, end: str) -> None:
    body = PLAIN.replace("] logits)", "] scores)").replace("logits =", "raw =").replace("}\n", "}")
    body = body.rstrip().removesuffix("}") + end.format(operator + axis) + "\n}"
    assert read_classifier(write_text(tmp_path, body)).output == OutputSpec(
        ("scores",), LOGITS, ("scores",), (operator,)
    )


def test_a_softmax_over_the_batch_is_no_tail(tmp_path: Path) -> None:
    body = PLAIN.replace("logits = MatMul(hidden, w)", "raw = MatMul(hidden, w) logits = Softmax<axis = 0>(raw)")
    assert read_classifier(write_text(tmp_path, body)).output == OutputSpec(("logits",), "logits")


@pytest.mark.parametrize("content", [b"", b"\xff" * 300, b"PK\x03\x04 zipped"])
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(NotOnnxError, match="is not a valid ONNX model"):
        read_classifier(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_truncated_model_is_refused(tmp_path: Path, share: float) -> None:
    path = write_text(tmp_path, RESIDUAL)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(NotOnnxError, match="is not a valid ONNX model"):
        read_classifier(path)


@pytest.mark.parametrize(("name", "what"), [("none.onnx", "no such file"), (".", "is a folder")])
def test_no_file_is_refused(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(NotOnnxError, match=f"{what}; provide an ONNX file"):
        read_classifier(tmp_path / name)


def test_a_graph_that_onnx_refuses_is_refused(tmp_path: Path) -> None:
    path = write_changed(tmp_path, lambda model: model.graph.node.pop(0))
    with pytest.raises(NotOnnxError, match=r"is not a valid ONNX model.*conv1"):
        read_classifier(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "float[n,4] x)",
            "float[n,4] x, float[n] mask)",
            r"has 2 inputs \(x, mask\); provide a model with exactly one input",
        ),
        (
            "float[n,4] x",
            "int64[n,4] x",
            "input 'x' has dtype INT64; provide a model whose input dtype is one of float32, float16",
        ),
        ("float[n,4] x", "float[n] x", r"expected input 'x' to have a declared shape \(N, ...\)"),
    ],
)
def test_what_is_no_classifier_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PLAIN
    with pytest.raises(NotClassifierError, match=message):
        read_classifier(write_text(tmp_path, PLAIN.replace(old, new)))


@pytest.mark.parametrize(
    ("given", "dtype", "batch"),
    [("float16[n,4]", "float16", None), ("uint8[1,4]", "uint8", 1), ("double[8,4]", "float64", 8)],
)
def test_other_dtypes_and_a_fixed_batch_are_read(tmp_path: Path, given: str, dtype: str, batch: int | None) -> None:
    body = (
        PLAIN.replace("float[n,4] x", f"{given} x")
        .replace("Relu(x)", "Relu(c)")
        .replace("{\n    hid", "{ c = Cast<to = 1>(x)\n    hid")
    )
    classifier = read_classifier(write_text(tmp_path, body))
    assert (classifier.input_dtype, classifier.input_shape) == (dtype, (batch, 4))


def forget_shape(value: onnx.ValueInfoProto) -> None:
    value.type.tensor_type.ClearField("shape")


def test_an_input_without_a_declared_shape_is_refused(tmp_path: Path) -> None:
    path = write_changed(tmp_path, lambda model: forget_shape(model.graph.input[0]))
    with pytest.raises(NotClassifierError, match=r"to have a declared shape \(N, ...\), got None; export the model"):
        read_classifier(path)


def test_an_initialiser_that_is_an_input_too_is_no_second_input(tmp_path: Path) -> None:
    def expose(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))

    assert read_classifier(write_changed(tmp_path, expose)).input_name == "image"


def test_an_opset_below_8_is_converted(tmp_path: Path) -> None:
    path = write_text(tmp_path, PLAIN, '<ir_version: 4, opset_import: ["" : 7]>')
    classifier = read_classifier(path)
    assert classifier.model.opset_imports[""] == 8
    write_clipped(classifier, {"hidden": np.ones(4, np.float32)}, tmp_path / "clipped.onnx")
    x = np.full((2, 4), 3, np.float32)
    weight = np.array([1, -2, 3, 0.5, 0, -1, 2, 1.5, -0.5, 1, 1, -3], np.float32).reshape(4, 3)
    np.testing.assert_allclose(run(tmp_path / "clipped.onnx", x, "logits"), np.ones((2, 4)) @ weight, rtol=1e-6)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    body = PLAIN.replace("Relu(x)", "local.bend(x)") + (
        '<domain: "local", opset_import: ["" : 17]> bend (a) => (b) { b = Relu(a) }'
    )
    path = write_text(tmp_path, body, '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>')
    classifier = read_classifier(path)
    (site,) = find_activations(classifier.model, classifier.logits_source.value)
    assert (site.value, site.operator) == ("hidden", "Relu")


@pytest.mark.parametrize("location", ["model.onnx.data", "weights/part.bin", "my weights (1).data"])
def test_external_weights_are_listed(tmp_path: Path, location: str) -> None:
    classifier = read_classifier(write_external(tmp_path, location))
    assert classifier.external_files == (Path(location),)
    classifier.path.unlink()
    assert classifier.external_files == (Path(location),), "the file is parsed once"


@pytest.mark.parametrize("location", ["manifest.json", "clipped.onnx", "runtime/part.bin"])
def test_external_weights_that_a_bundle_cannot_hold_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(
        NotOnnxError, match=f"keeps weights in '{location}', a name that bundles use for their own files"
    ):
        read_classifier(write_external(tmp_path, location))


@pytest.mark.parametrize("location", ["./clipped.onnx", "part/../probes.safetensors", "c:weights.data"])
def test_external_weights_by_another_path_are_refused(tmp_path: Path, location: str) -> None:
    path = write_external(tmp_path, "weights.data")
    (tmp_path / "part").mkdir()
    (tmp_path / location).write_bytes((tmp_path / "weights.data").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    onnx.save(model, path)
    with pytest.raises(
        NotOnnxError, match="a path that bundles cannot contain; save the weights in a file with a different name"
    ):
        read_classifier(path)


def test_external_data_of_constants_is_listed(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(HEADER + PLAIN)
    weight = numpy_helper.from_array(numpy_helper.to_array(found := model.graph.initializer.pop()), found.name)
    model.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    path = str(tmp_path / "model.onnx")
    onnx.save_model(
        model, path, None, save_as_external_data=True, location="w.data", size_threshold=0, convert_attribute=True
    )
    assert read_classifier(tmp_path / "model.onnx").external_files == (Path("w.data"),)


def test_a_name_that_a_guard_needs_is_refused(tmp_path: Path) -> None:
    path = write_text(
        tmp_path,
        PLAIN.replace("logits = MatMul(hidden, w)", f"{LOGITS} = MatMul(hidden, w) logits = Softmax({LOGITS})"),
    )
    with pytest.raises(
        NotClassifierError,
        match=f"a value of the model is named '{LOGITS}', but mmguard reserves this name; rename the value",
    ):
        read_classifier(path)


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(HEADER + PLAIN)
    weight = model.graph.initializer.pop()
    values = helper.make_tensor(weight.name, TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("places", TensorProto.INT64, [1], [2])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, weight.dims))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedOperatorError, match="sparse weights"):
        read_classifier(tmp_path / "model.onnx")


def test_missing_external_weights_are_named(tmp_path: Path) -> None:
    path = write_external(tmp_path, "weights.data")
    (tmp_path / "weights.data").unlink()
    with pytest.raises(NotOnnxError, match=r"weights\.data"):
        read_classifier(path)


def test_truncated_external_weights_are_named(tmp_path: Path) -> None:
    path, data = write_external(tmp_path, "weights.data"), tmp_path / "weights.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(
        NotOnnxError, match=r"up to byte \d+ of 'weights.data', but that file has only \d+ bytes; copy the file again"
    ):
        read_classifier(path)
