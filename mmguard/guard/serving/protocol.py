"""Metadata and responses of the Open Inference Protocol v2 over HTTP.

Tensors can be encoded in two ways: as numbers in the JSON, or with Triton's binary tensor extension. With the
extension, the tensors follow the JSON, and the header `Inference-Header-Content-Length` contains the length of the
JSON. Sources:
https://github.com/kserve/open-inference-protocol (HTTP/REST) and Triton's "Binary Tensor Data Extension".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mmguard.bundle.manifest import Manifest
from mmguard.guard.serving.request import InferenceRequest
from mmguard.guard.serving.tensors import HEADER_LENGTH, INPUTS, datatype_of, to_bytes, to_json

VERSION = "1"
GUARD_OUTPUTS = {
    "mmguard_label": "INT64",
    "mmguard_original_label": "INT64",
    "mmguard_flagged": "BOOL",
    "mmguard_p_value": "FP64",
    "mmguard_margin_gap": "FP64",
    "mmguard_reason": "BYTES",
    "mmguard_confidence": "FP64",
}
"""Datatypes of the outputs (N,) that the guard adds, in the order of the response.

See `types.Decision` for the meaning of these outputs.
"""
OUTPUTS = {
    "tensor(bool)": "BOOL",
    "tensor(double)": "FP64",
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(string)": "BYTES",
    "tensor(uint8)": "UINT8",
}
"""Protocol datatypes of outputs, keyed by ONNX Runtime type."""
MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")
"""ONNX Runtime types of outputs that contain one map from classes to numbers for each input.

The server returns such an output as an FP32 tensor (N, K), with the columns sorted by class.
"""


@dataclass(frozen=True)
class ServedTensor:
    """Description of one of the model's outputs, in terms of the protocol.

    Attributes:
        name: name of the output.
        datatype: protocol datatype, such as `FP32`.
        shape: sizes of the axes; None for a dynamic axis.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...]


def served_outputs(session: Any, names: Sequence[str]) -> tuple[ServedTensor, ...]:
    """Describe the model's outputs that the server supports: tensors, and lists of maps from classes to numbers.

    Args:
        session: an `onnxruntime.InferenceSession` of the model.
        names: names of the model's outputs, in order.

    Returns:
        One description per supported output, in the order of `names`.
    """
    described = {output.name: output for output in session.get_outputs()}
    return tuple(
        ServedTensor(name, OUTPUTS.get(output.type, "FP32"), tuple(n if isinstance(n, int) else None for n in shape))
        for name in names
        if (output := described[name]).type in (*OUTPUTS, *MAPS)
        for shape in [(None, None) if output.type in MAPS else output.shape]
    )


def output_names(served: Sequence[ServedTensor]) -> tuple[str, ...]:
    """Return the names of all outputs of a response: the model's own outputs, then the guard's outputs.

    Args:
        served: the model's own outputs.

    Returns:
        The names, in the order of a response.

    Example:
        >>> output_names([ServedTensor("logits", "FP32", (None, 3))])[:2]
        ('logits', 'mmguard_label')
    """
    return *(output.name for output in served), *GUARD_OUTPUTS


def model_metadata(manifest: Manifest, served: Sequence[ServedTensor]) -> dict[str, Any]:
    """Return a model's metadata in the protocol's JSON form.

    Args:
        manifest: manifest of the bundle.
        served: the model's own outputs.

    Returns:
        The metadata. In a shape, -1 means a dynamic axis. The batch axis is always dynamic.
    """
    spec = manifest.input
    outputs = [
        {"name": each.name, "datatype": each.datatype, "shape": [-1, *(size or -1 for size in each.shape[1:])]}
        for each in served
    ]
    outputs += [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in GUARD_OUTPUTS.items()]
    shape = [-1, *(size or -1 for size in spec.shape[1:])]
    return {
        "name": manifest.name,
        "versions": [VERSION],
        "platform": "mmguard",
        "inputs": [{"name": spec.name, "datatype": INPUTS[spec.dtype], "shape": shape}],
        "outputs": outputs,
    }


def encode_response(model: str, request: InferenceRequest, arrays: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Encode the response to an inference request.

    JSON cannot represent NaN or infinity, so these values become null in JSON. Binary tensors contain these values
    unchanged.

    Args:
        model: name of the model.
        request: the request; the response contains only the outputs that the request asks for.
        arrays: the outputs by name. Each output is an array whose dtype is in `DTYPES`, an array of strings, or a list
            of maps from classes to numbers.

    Returns:
        The body and the headers of the response.
    """
    tensors, binary = [], []
    for name, as_binary in request.outputs.items():
        output = arrays[name]
        array = _columns(output) if isinstance(output, list) else output
        tensor: dict[str, Any] = {"name": name, "datatype": datatype_of(array), "shape": list(array.shape)}
        if as_binary:
            binary.append(to_bytes(array))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = msgspec.Raw(to_json(array))
        tensors.append(tensor)
    identity = {} if request.id is None else {"id": request.id}
    answer = {"model_name": model, "model_version": VERSION, **identity, "outputs": tensors}
    head = msgspec.json.encode(answer)
    if not binary:
        return head, {"Content-Type": "application/json"}
    return b"".join((head, *binary)), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def _columns(maps: Sequence[Mapping[Any, float]]) -> npt.NDArray[np.float32]:
    """Convert N maps to an array (N, K), with one column per key, sorted by key."""
    rows = [[row[key] for key in sorted(row)] for row in maps]
    return np.array(rows, np.float32).reshape(len(rows), len(rows[0]) if rows else 0)
