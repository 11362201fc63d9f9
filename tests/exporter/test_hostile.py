"""Files from strangers: what asks for more than a classifier needs is refused before it is computed, by an error."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mmguard.errors import ModelError, NotOnnxError, UnsupportedOperatorError
from mmguard.exporter.classifier import read_classifier
from mmguard.exporter.file_checks import MAX_NODES
from mmguard.pipeline.api import inspect_model
from tests.bundles import tiny_network

Change = Callable[[onnx.ModelProto], object]

HUGE = 600_000_000


def write(path: Path, change: Change) -> Path:
    model = tiny_network().model()
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def number(name: str, value: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def floats(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array, np.float32), name)


def constant_part(*nodes: onnx.NodeProto, **constants: onnx.TensorProto) -> Change:
    """Nodes that make `big` of constants, of which the largest number is added to the logits."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.initializer.extend(constants.values())
        kind = helper.make_node("Cast", ["big"], ["big_float"], to=TensorProto.FLOAT)
        top = helper.make_node("ReduceMax", ["big_float"], ["top"], keepdims=0)
        graph.node.extend([*nodes, kind, top, helper.make_node("Add", ["logits", "top"], ["out"])])
        graph.output[0].name = "out"

    return change


def node(operator: str, inputs: str, output: str = "big", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(","), [output], **attributes)


LONG = node("ConstantOfShape", "n", "v")
GROWN = {
    "ConstantOfShape": constant_part(node("ConstantOfShape", "n"), n=ints("n", HUGE)),
    "Range": constant_part(
        node("Range", "zero,n,one"), zero=number("zero", 0), n=number("n", HUGE), one=number("one", 1)
    ),
    "Tile": constant_part(node("Tile", "a,n"), a=floats("a", [1]), n=ints("n", HUGE)),
    "Expand": constant_part(node("Expand", "a,n"), a=floats("a", [1]), n=ints("n", HUGE)),
    "Pad": constant_part(node("Pad", "a,n"), a=floats("a", [1]), n=ints("n", HUGE, HUGE)),
    "Resize": constant_part(node("Resize", "a,,,n"), a=floats("a", [[[[1]]]]), n=ints("n", 1, 1, 25000, 25000)),
    "OneHot": constant_part(
        LONG,
        node("Cast", "v", "w", to=TensorProto.INT64),
        node("OneHot", "w,depth,values"),
        n=ints("n", 25000),
        depth=number("depth", 25000),
        values=floats("values", [0, 1]),
    ),
    "Einsum": constant_part(LONG, node("Einsum", "v,v", equation="i,j->ij"), n=ints("n", 25000)),
    "a product of a column and a row": constant_part(
        LONG,
        node("Reshape", "v,column", "c"),
        node("Mul", "v,c"),
        n=ints("n", 25000),
        column=ints("column", -1, 1),
    ),
    "arithmetic on shapes": constant_part(
        node("Mul", "n,n", "n2"), node("Mul", "n2,n", "n3"), node("ConstantOfShape", "n3"), n=ints("n", 850)
    ),
    "the shape of a fixed input": constant_part(
        node("Shape", "image", "s", start=2),
        node("ReduceProd", "s", "p", keepdims=1),
        node("Mul", "p,n", "q"),
        node("ConstantOfShape", "q"),
        n=ints("n", 10_000_000),
    ),
    "doubling": constant_part(
        *(node("Concat", f"d{i},d{i}", f"d{i + 1}", axis=0) for i in range(29)),
        node("Identity", "d29"),
        a=floats("d0", [1]),
    ),
    "numbers that no one knows before": constant_part(
        LONG, node("NonZero", "v", "z"), node("Shape", "z", "s"), node("ConstantOfShape", "s"), n=ints("n", 5000)
    ),
}


@pytest.mark.parametrize("change", GROWN.values(), ids=list(GROWN))
def test_constants_that_grow_without_end_are_refused_before_they_are_made(tmp_path: Path, change: Change) -> None:
    path = write(tmp_path / "model.onnx", change)
    assert path.stat().st_size < 8000
    with pytest.raises(
        ModelError,
        match=r"from constants, (which brings the size of all computed constants to \d+ bytes; mmguard allows "
        r"at most 67108864 |but the value's size cannot)",
    ):
        read_classifier(path)


def test_constants_of_a_size_that_models_have_are_taken(tmp_path: Path) -> None:
    """Positions, masks and scales are often made of shapes."""
    change = constant_part(
        node("Shape", "image", "s", start=1),
        node("ConstantOfShape", "s", "ones"),
        node("NonZero", "ones", "places"),
        node("Range", "zero,n,one", "line"),
        node("Identity", "line"),
        zero=number("zero", 0),
        n=number("n", 1000),
        one=number("one", 1),
    )
    assert read_classifier(write(tmp_path / "model.onnx", change)).output.logits == "out"


def test_a_value_of_gigabytes_for_each_input_is_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(ints("n", 1, 1, 2000, 2000))
        model.graph.node.insert(0, node("Tile", "image,n", "tiles"))
        model.graph.node[1].input[0] = "tiles"

    with pytest.raises(ModelError, match=r"Tile computes 'tiles', which takes 3072000000 bytes for one input"):
        read_classifier(write(tmp_path / "model.onnx", change))


def test_an_input_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**31

    with pytest.raises(ModelError, match="input 'image' needs 549755813888 bytes with its declared shape"):
        read_classifier(write(tmp_path / "model.onnx", change))


def functions(depth: int, calls: int, last: str = "F0") -> Change:
    """Functions that call the one before, each some times; `last` is what the first of them does."""

    def change(model: onnx.ModelProto) -> None:
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        model.opset_import.append(opsets[1])
        own = helper.make_node("Relu", ["a"], ["b"]) if last == "F0" else node(last, "a", "b", domain="local")
        bodies = [[own]]
        for i in range(1, depth + 1):
            names = ["a", *(f"t{j}" for j in range(calls - 1)), "b"]
            bodies.append([node(f"F{i - 1}", a, b, domain="local") for a, b in pairwise(names)])
        for i, body in enumerate(bodies):
            model.functions.append(helper.make_function("local", f"F{i}", ["a"], ["b"], body, opsets))
        model.graph.node[1].CopyFrom(node(f"F{depth}", model.graph.node[1].input[0], "relu1", domain="local"))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            functions(30, 2),
            rf"has 10737418\d\d nodes after its functions are inlined, but mmguard accepts at most {MAX_NODES}",
        ),
        (functions(500, 1), "function calls are nested more than 100 levels deep"),
        (functions(3, 1, last="F2"), "function 'F2' calls itself"),
    ],
)
def test_functions_are_counted_before_they_are_inlined(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_classifier(write(tmp_path / "model.onnx", change))


def test_functions_that_stay_small_are_inlined(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", functions(4, 2))
    assert sum(each.op_type == "Relu" for each in read_classifier(path).model.graph) == 16 + 1


def weight(dims: Sequence[int], raw: bytes = b"", attribute: bool = False) -> Change:
    """A tensor of that shape and of other content."""

    def change(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=dims)
        if raw:
            tensor.raw_data = raw
        constant_part()(model)
        if attribute:
            model.graph.node.insert(0, helper.make_node("Constant", [], ["big"], value=tensor))
        else:
            model.graph.initializer.append(tensor)

    return change


@pytest.mark.parametrize("dims", [[2**40], [2**33, 2**33], [-5], [2**31, 2], [3]])
@pytest.mark.parametrize("raw", [b"", bytes(4)])
@pytest.mark.parametrize("attribute", [False, True])
def test_weights_that_are_not_there_are_refused(tmp_path: Path, dims: list[int], raw: bytes, attribute: bool) -> None:
    with pytest.raises(NotOnnxError, match=r"is not a valid ONNX model: weight 'big' (has|does not have)"):
        read_classifier(write(tmp_path / "model.onnx", weight(dims, raw, attribute)))


def test_sparse_constants_are_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        values, places = helper.make_tensor("v", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0])
        sparse = helper.make_sparse_tensor(values, places, [HUGE])
        model.graph.node.insert(0, helper.make_node("Constant", [], ["big"], sparse_value=sparse))
        constant_part()(model)

    with pytest.raises(UnsupportedOperatorError, match="sparse weights"):
        read_classifier(write(tmp_path / "model.onnx", change))


def external(location: str, **fields: str) -> Change:
    """The first weight, 432 bytes, in another file."""

    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **fields}.items():
            tensor.external_data.add(key=key, value=value)

    return change


@pytest.mark.parametrize(
    ("location", "fields", "message"),
    [
        ("/dev/zero", {}, "a path that bundles cannot contain"),
        ("../weights.bin", {}, "a path that bundles cannot contain"),
        ("", {}, "a path that bundles cannot contain"),
        (".", {}, "a path that bundles cannot contain"),
        ("w\0.bin", {}, "a path that bundles cannot contain"),
        ("folder", {}, "which is not a regular file"),
        ("pipe", {}, "which is not a regular file"),
        ("device", {}, "which is not a regular file"),
        (
            "secret",
            {},
            "which is a link to .*outside, as is common in the caches of model hubs.* copy the model and its weights",
        ),
        ("through/outside", {}, "which is a link to"),
        ("weights.bin", {"offset": "-8"}, "needs 432 bytes, but the model assigns it 432 bytes of 'weights.bin'"),
        ("weights.bin", {"offset": str(2**70)}, "but that file has only 432 bytes; copy the file again"),
        ("weights.bin", {"offset": "one"}, "has an offset or a length that is not a number"),
        ("weights.bin", {"length": "4"}, "needs 432 bytes, but the model assigns it 4 bytes of 'weights.bin'"),
        ("weights.bin", {"length": "-1"}, "needs 432 bytes, but the model assigns it -1 bytes of 'weights.bin'"),
        ("weights.bin", {"offset": "4"}, "up to byte 436 of 'weights.bin', but that file has only 432"),
    ],
)
def test_external_weights_come_from_files_beside_the_model(
    tmp_path: Path, location: str, fields: dict[str, str], message: str
) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(432))
    (tmp_path / "outside").write_bytes(bytes(432))
    os.mkfifo(folder / "pipe")
    for name, target in {"device": Path("/dev/zero"), "secret": tmp_path / "outside", "through": tmp_path}.items():
        (folder / name).symlink_to(target)
    path = write(folder / "model.onnx", external("weights.bin"))
    assert read_classifier(path).external_files == (Path("weights.bin"),)
    with pytest.raises(NotOnnxError, match=message):
        read_classifier(write(path, external(location, **fields)))


def test_a_model_that_is_a_link_is_read_where_its_weights_are_inside(tmp_path: Path) -> None:
    write(tmp_path / "blob", lambda model: None)
    (tmp_path / "model.onnx").symlink_to(tmp_path / "blob")
    assert read_classifier(tmp_path / "model.onnx").output.logits == "logits"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_any_byte_changed_is_read_or_refused_by_an_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(tiny_network().model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "model.onnx").write_bytes(content)
    with suppress(ModelError):
        inspect_model(tmp_path / "model.onnx")  # any other error fails the test


def fields(message: Any) -> list[Any]:
    """Every message inside a message, itself first."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                found += fields(each)
    return found


WILD = {
    "int": [0, -1, 1, 2**31, 2**62, -(2**62)],
    "text": ["", "x", "relu1", "Identity", "If", "a" * 300, "\u0000"],
    "float": [0.0, float("nan"), float("inf"), -1e30],
}


def _scalars(message: Any) -> list[Any]:
    return [each for each in message.DESCRIPTOR.fields if each.message_type is None]


def scramble(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Give a field anywhere in a model another value."""

    def draw(choices: Any) -> Any:
        return data.draw(st.sampled_from(choices))

    message = draw([each for each in fields(model) if _scalars(each)])
    field = draw(_scalars(message))
    kind = "text" if field.cpp_type == field.CPPTYPE_STRING else "float"
    kind = kind if field.cpp_type in (field.CPPTYPE_STRING, field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE) else "int"
    value = draw(WILD[kind])
    if field.type == field.TYPE_BYTES:
        value = value.encode()
    try:
        if field.is_repeated:
            getattr(message, field.name)[:] = [value]
        else:
            setattr(message, field.name, value)
    except (ValueError, TypeError):
        message.ClearField(field.name)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_model_with_any_field_changed_is_read_or_refused_by_an_error(tmp_path: Path, data: st.DataObject) -> None:
    model = tiny_network().model()
    for _ in range(data.draw(st.integers(1, 2))):
        scramble(model, data)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with suppress(ModelError):
        inspect_model(tmp_path / "model.onnx")  # any other error fails the test


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    content = tiny_network().model().SerializeToString()
    assert content.count(b"tiny") == 1
    (tmp_path / "model.onnx").write_bytes(content.replace(b"tiny", b"\x80iny"))
    found = inspect_model(tmp_path / "model.onnx")
    assert any("cannot be written back as ONNX" in obstacle for obstacle in found.obstacles)
