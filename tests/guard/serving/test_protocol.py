import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mmguard.bundle import Bundle
from mmguard.errors import InputError, RequestTooLargeError
from mmguard.guard.serving.body import decompress
from mmguard.guard.serving.protocol import (
    InferenceRequest,
    ServedTensor,
    encode_response,
    model_metadata,
    output_names,
    parse_request,
    served_outputs,
)
from mmguard.guard.serving.tensors import HEADER_LENGTH, to_bytes, to_json
from mmguard.guard.sessions import PROVIDERS, open_session
from mmguard.types import InputSpec

LOW, HIGH = np.zeros(1, np.float32), np.ones(1, np.float32)
SPEC = InputSpec("x", (None, 2), LOW, HIGH)
OUTPUTS = ("logits", "mmguard_label")
TENSOR = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}


def parse(request: object, binary: bytes = b"", header: str | None = None) -> InferenceRequest:
    head = json.dumps(request).encode()
    if binary and header is None:
        header = str(len(head))
    return parse_request(head + binary, header, SPEC, OUTPUTS)


def with_tensor(**changes: Any) -> dict[str, Any]:
    """A request whose tensor has other fields; None leaves a field out."""
    return {"inputs": [{key: value for key, value in (TENSOR | changes).items() if value is not None}]}


def with_binary(size: object, **changes: Any) -> dict[str, Any]:
    return with_tensor(data=None, parameters={"binary_data_size": size}, **changes)


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [1.0, 2, 3, 4.0]])
def test_json_data_is_read_flat_or_nested(data: list[Any]) -> None:
    request = parse(with_tensor(data=data))
    np.testing.assert_array_equal(request.x, np.array([[1, 2], [3, 4]], np.float32))
    assert request.x.dtype == np.float32
    assert request.id is None
    assert request.outputs == {"logits": False, "mmguard_label": False}


def test_binary_data_is_read_at_any_offset() -> None:
    x = np.arange(4, dtype=np.float32).reshape(2, 2)
    for padding in range(4):
        request = parse(with_binary(16) | {"id": "i" * padding}, x.tobytes())
        np.testing.assert_array_equal(request.x, x)
        assert request.x.flags.aligned
        assert request.x.flags.writeable


@pytest.mark.parametrize("shape", [[0, 2], [0, 5]])
def test_an_empty_batch_keeps_its_shape(shape: list[int]) -> None:
    assert parse(with_tensor(shape=shape, data=[])).x.shape == tuple(shape)
    assert parse(with_binary(0, shape=shape)).x.shape == tuple(shape)


@pytest.mark.parametrize("special", ["NaN", "Infinity", "1e300", "-1e300"])
def test_numbers_that_float32_cannot_hold_reach_the_guard_as_such(special: str) -> None:
    body = json.dumps(with_tensor()).replace("[1, 2, 3, 4]", f"[1, 2, 3, {special}]").encode()
    assert not np.isfinite(parse_request(body, None, SPEC, OUTPUTS).x).all()


def test_outputs_are_those_asked_for_in_that_order() -> None:
    outputs = [{"name": "mmguard_label", "parameters": {"binary_data": True}}, {"name": "logits"}]
    assert list(parse(with_tensor() | {"outputs": outputs}).outputs.items()) == [
        ("mmguard_label", True),
        ("logits", False),
    ]


def test_binary_data_output_is_the_default_of_all_outputs() -> None:
    request = with_tensor() | {"parameters": {"binary_data_output": True, "priority": 3}}
    assert parse(request).outputs == {"logits": True, "mmguard_label": True}
    outputs = [{"name": "logits", "parameters": {"binary_data": False}}, {"name": "mmguard_label"}]
    assert parse(request | {"outputs": outputs}).outputs == {"logits": False, "mmguard_label": True}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "the request must be a JSON object"),
        ({}, "inputs must be a list of one tensor"),
        ({"inputs": {}}, "inputs must be a list of one tensor"),
        ({"inputs": []}, "got 0 tensors"),
        ({"inputs": [TENSOR, TENSOR]}, "got 2 tensors"),
        ({"inputs": ["x"]}, "an input must be a JSON object"),
        (with_tensor(name="y"), "the model's input is 'x', got 'y'"),
        (with_tensor(name=None), "the model's input is 'x', got None"),
        (with_tensor(datatype="FP64"), "datatype FP32, got 'FP64'"),
        (with_tensor(datatype=None), "datatype FP32, got None"),
        (with_tensor(shape=None), "list of non-negative integers"),
        (with_tensor(shape=4), "list of non-negative integers"),
        (with_tensor(shape=[-1, 2]), "list of non-negative integers"),
        (with_tensor(shape=[2.0, 2]), "list of non-negative integers"),
        (with_tensor(shape=[True, 4]), "list of non-negative integers"),
        (with_tensor(shape=[1] * 65), "list of non-negative integers"),
        (with_tensor(shape=[3, 2]), "its shape says"),
        (with_tensor(shape=[2**40, 2**40]), "its shape says"),
        (with_tensor(shape=[0, 2**40, 2**40], data=[]), "no array can have shape"),
        (with_tensor(data=[[1, 2, 3, 4]]), "has shape \\(1, 4\\)"),
        (with_tensor(data=[[1, 2], [3]]), "flat or evenly nested"),
        (with_tensor(data=["1", "2", "3", "4"]), "numbers only"),
        (with_tensor(data=[1, 2, 3, None]), "numbers only"),
        (with_tensor(data=[1, 2, 3, 10**30]), "numbers only"),
        (with_tensor(data=[True, False, True, False]), "numbers only"),
        (with_tensor(data="1234"), "numbers only"),
        (with_tensor(data={"0": 1}), "numbers only"),
        (with_tensor(data=None), "either data or the parameter binary_data_size"),
        (with_tensor(parameters={"binary_data_size": 16}), "either data or the parameter binary_data_size"),
        (with_tensor(parameters=[]), "parameters of input 'x' must be a JSON object"),
        (with_tensor(data=None, parameters={"shared_memory_region": "r"}), "shared memory"),
        (with_binary(16), "0 bytes follow the JSON"),
        (with_binary(-16), "binary_data_size is -16"),
        (with_binary("16"), "binary_data_size is '16'"),
        (with_binary(True), "binary_data_size is True"),
        (with_tensor() | {"id": 7}, "id must be a string"),
        (with_tensor() | {"parameters": 1}, "parameters of the request must be a JSON object"),
        (with_tensor() | {"parameters": {"binary_data_output": 1}}, "binary_data_output must be true or false"),
        (with_tensor() | {"outputs": "logits"}, "outputs must be a list"),
        (with_tensor() | {"outputs": ["logits"]}, "an output must be a JSON object"),
        (with_tensor() | {"outputs": [{}]}, "the model's outputs are logits, mmguard_label, got None"),
        (with_tensor() | {"outputs": [{"name": ["logits"]}]}, "the model's outputs are"),
        (with_tensor() | {"outputs": [{"name": "probabilities"}]}, "got 'probabilities'"),
        (with_tensor() | {"outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]}, "true or false"),
        (with_tensor() | {"outputs": [{"name": "logits", "parameters": {"classification": 3}}]}, "classification"),
    ],
)
def test_a_malformed_request_is_refused(request_: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(request_)


@pytest.mark.parametrize(
    ("request_", "binary", "message"),
    [
        (with_binary(16), bytes(15), "15 bytes follow"),
        (with_binary(16), bytes(17), "17 bytes follow"),
        (with_binary(15), bytes(15), "is 16 bytes"),
        (with_binary(12), bytes(16), "binary_data_size is 12"),
        (with_binary(16, shape=[4, 2]), bytes(16), "is 32 bytes"),
        (with_binary(16, shape=[2**62, 2**62]), bytes(16), "bytes follow"),
        (with_tensor(), bytes(16), "16 bytes follow the JSON, but input 'x' has no binary_data_size"),
    ],
)
def test_binary_data_of_another_size_is_refused(request_: object, binary: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(request_, binary)


@pytest.mark.parametrize("header", ["", "-1", "ten", "1e3", "99999", "9" * 5000, "٣", "+5"])
def test_a_header_length_that_is_none_is_refused(header: str) -> None:
    with pytest.raises(InputError, match=HEADER_LENGTH):
        parse(with_binary(16), bytes(16), header)


@pytest.mark.parametrize("header", ["0", "5"])
def test_a_header_length_that_cuts_the_json_is_refused(header: str) -> None:
    with pytest.raises(InputError, match="not JSON"):
        parse(with_binary(16), bytes(16), header)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\xff", b"[" * 200_000, b"9" * 5000])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InputError, match=r"not JSON|must be a JSON object"):
        parse_request(body, None, SPEC, OUTPUTS)


def test_an_error_quotes_little_of_what_came() -> None:
    with pytest.raises(InputError) as caught:
        parse(with_tensor(name="y" * 10_000))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([True, False]), b"\x01\x00"),
        (np.array([1, -1]), b"\x01" + bytes(7) + b"\xff" * 8),
        (np.array([1.0], np.float32), b"\x00\x00\x80\x3f"),
        (np.array([1.0]), b"\x00" * 6 + b"\xf0\x3f"),
        (np.array([[1.0], [2.0]], np.float32).T, b"\x00\x00\x80\x3f\x00\x00\x00\x40"),
        (np.array(["ab", "", "ü"]), b"\x02\x00\x00\x00ab\x00\x00\x00\x00\x02\x00\x00\x00\xc3\xbc"),
        (np.array([], np.str_), b""),
    ],
)
def test_arrays_as_bytes(array: np.ndarray[Any, Any], expected: bytes) -> None:
    assert to_bytes(array) == expected


def test_numbers_that_json_lacks_are_null() -> None:
    assert to_json(np.array([[1.5, np.nan], [np.inf, -np.inf]])) == [1.5, None, None, None]
    assert to_json(np.array(["both"])) == ["both"]
    assert to_json(np.array([True])) == [True]


def test_a_response_has_the_asked_outputs_each_in_its_form() -> None:
    arrays = {"logits": np.ones((2, 3), np.float32), "mmguard_label": np.array([7, 8]), "unasked": np.zeros(2)}
    request = InferenceRequest("a", np.zeros((2, 2), np.float32), {"mmguard_label": True, "logits": False})
    body, headers = encode_response("m", request, arrays)
    head, tail = body[: int(headers[HEADER_LENGTH])], body[int(headers[HEADER_LENGTH]) :]
    assert json.loads(head) == {
        "model_name": "m",
        "model_version": "1",
        "id": "a",
        "outputs": [
            {"name": "mmguard_label", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
            {"name": "logits", "datatype": "FP32", "shape": [2, 3], "data": [1.0] * 6},
        ],
    }
    assert np.frombuffer(tail, "<i8").tolist() == [7, 8]


def test_a_response_of_json_alone_has_no_header_length() -> None:
    request = InferenceRequest(None, np.zeros((0, 2), np.float32), {"logits": False})
    body, headers = encode_response("m", request, {"logits": np.ones((0, 3), np.float32)})
    assert HEADER_LENGTH not in headers
    assert "id" not in json.loads(body)


def test_metadata_names_what_is_answered(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    served = served_outputs(open_session(tiny_bundle / "original.onnx", PROVIDERS["cpu"], 1), manifest.output.names)
    metadata = model_metadata(manifest, served)
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
    assert metadata["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 3]}
    assert tuple(output["name"] for output in metadata["outputs"]) == output_names(served)


def test_maps_of_names_are_served_as_columns(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
    g (float[n,2] x) => (seq(map(string, float)) p) { p = ai.onnx.ml.ZipMap<classlabels_strings = ["b", "a"]>(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "map.onnx")
    session = open_session(tmp_path / "map.onnx", PROVIDERS["cpu"], 1)
    assert served_outputs(session, ["p"]) == (ServedTensor("p", "FP32", (None, None)),)
    x = np.array([[1, 2], [3, 4]], np.float32)
    for rows, expected in ((2, [2, 1, 4, 3]), (0, [])):
        (maps,) = session.run(None, {"x": x[:rows]})
        body, _ = encode_response("m", InferenceRequest(None, x[:rows], {"p": False}), {"p": maps})
        (tensor,) = json.loads(body)["outputs"]
        assert (tensor["datatype"], tensor["shape"][0], tensor["data"]) == ("FP32", rows, expected)


def test_decompression_stops_at_the_limit() -> None:
    for encoding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        assert decompress(compress(bytes(1000)), encoding, 1000) == bytes(1000)
        with pytest.raises(RequestTooLargeError, match="999 bytes"):
            decompress(compress(bytes(1000)), encoding, 999)
        with pytest.raises(RequestTooLargeError):
            decompress(compress(bytes(10**7)), encoding, 1000)
        for damaged in (b"", b"plain", compress(b"data")[:-1], compress(b"data") + b"more"):
            with pytest.raises(InputError, match=encoding):
                decompress(damaged, encoding, 1000)
    assert decompress(b"plain", "identity", 1000) == b"plain"
    with pytest.raises(InputError, match="Content-Encoding"):
        decompress(b"plain", "br", 1000)
