import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mmguard.bundle.bundle import Bundle
from mmguard.guard.serving.protocol import ServedTensor, encode_response, model_metadata, output_names, served_outputs
from mmguard.guard.serving.request import InferenceRequest
from mmguard.guard.serving.tensors import HEADER_LENGTH, SLICE, to_bytes, to_json
from mmguard.guard.sessions import PROVIDERS, open_session


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
    assert to_json(np.array([[1.5, np.nan], [np.inf, -np.inf]])) == b"[1.5,null,null,null]"
    assert to_json(np.array(["both"])) == b'["both"]'
    assert to_json(np.array([True])) == b"[true]"


@pytest.mark.parametrize("size", [0, 1, SLICE, SLICE + 1, 2 * SLICE + 7])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_numbers_are_written_such_that_they_are_read_as_themselves(size: int, dtype: type) -> None:
    array: np.ndarray[Any, Any] = np.random.default_rng(size).normal(0, 1000, size).astype(dtype)
    np.testing.assert_array_equal(np.array(json.loads(to_json(array)), dtype), array)


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
