"""The tensors of the Open Inference Protocol v2 over HTTP: a request's bytes to an array, arrays to a response's bytes.

Both forms of the protocol are read and written: numbers in the JSON, and Triton's binary tensor extension, where the
header `Inference-Header-Content-Length` says how many bytes the JSON has and the tensors follow it. Sources:
https://github.com/kserve/open-inference-protocol (HTTP/REST) and Triton's "Binary Tensor Data Extension".

Every size is checked against the bytes that came before anything is made of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.guard.serving.tensors import HEADER_LENGTH, datatype_of, from_bytes, from_json, to_bytes, to_json
from mmguard.manifest import Manifest
from mmguard.types import InputSpec

VERSION = "1"
GUARD_OUTPUTS = {
    "mmguard_label": "INT64",
    "mmguard_original_label": "INT64",
    "mmguard_flagged": "BOOL",
    "mmguard_p_value": "FP64",
    "mmguard_margin_gap": "FP64",
    "mmguard_reason": "BYTES",
}
"""Datatypes of what the guard says of each input, (N,) each, in the order of a response; see `types.Decision`."""
INPUTS = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "uint8": "UINT8"}
"""Datatypes of inputs, by NumPy's name of the dtype."""
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
"""Datatypes of outputs, by ONNX Runtime's name of the type."""
MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")
"""Types of a number for each class by its name, one map an input. They are served as FP32 (N, K), by sorted names."""
MAX_AXES = 64
"""NumPy has no arrays of more."""


@dataclass(frozen=True)
class InferenceRequest:
    """What a client asks.

    Attributes:
        id: the client's own, given back in the response; None where it gave none.
        x: of the model's dtype and of the shape that the client said; whether the model takes that is the guard's to
            check.
        outputs: in the order to answer in, by name, whether the output goes as binary.
    """

    id: str | None
    x: npt.NDArray[Any]
    outputs: Mapping[str, bool]


@dataclass(frozen=True)
class ServedTensor:
    """An output of the model: its name, its datatype in the protocol and its shape, None for a dynamic axis."""

    name: str
    datatype: str
    shape: tuple[int | None, ...]


def served_outputs(session: Any, names: Sequence[str]) -> tuple[ServedTensor, ...]:
    """The model's own outputs that the protocol can carry: tensors, and maps from classes to numbers.

    Args:
        session: an `onnxruntime.InferenceSession`. names: of the outputs, in order.
    """
    described = {output.name: output for output in session.get_outputs()}
    return tuple(
        ServedTensor(name, OUTPUTS.get(output.type, "FP32"), tuple(n if isinstance(n, int) else None for n in shape))
        for name in names
        if (output := described[name]).type in (*OUTPUTS, *MAPS)
        for shape in [(None, None) if output.type in MAPS else output.shape]
    )


def output_names(served: Sequence[ServedTensor]) -> tuple[str, ...]:
    """What a model answers: its own outputs first."""
    return *(output.name for output in served), *GUARD_OUTPUTS


def model_metadata(manifest: Manifest, served: Sequence[ServedTensor]) -> dict[str, Any]:
    """A model's metadata as the protocol writes it; -1 is a dynamic axis. Batches of any size are taken."""
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


def parse_request(body: bytes, header_length: str | None, spec: InputSpec, outputs: Sequence[str]) -> InferenceRequest:
    """Read a request.

    Args:
        body: the request's body, decompressed.
        header_length: value of the header `Inference-Header-Content-Length`, None where there is none.
        spec: the model's one input.
        outputs: names of what the model answers, all of it where the request names none.

    Raises:
        InputError: it is malformed, or asks for what the model does not have.
    """
    head, tail = _split(body, header_length)
    request = _object(_parse_json(head), "the request")
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError(f"id must be a string, got {short(identity)}")
    return InferenceRequest(identity, _parse_input(request, tail, spec), _parse_outputs(request, outputs))


def encode_response(model: str, request: InferenceRequest, arrays: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Write a response.

    In JSON, a number that is NaN or infinite is null, since JSON has no such numbers; binary tensors keep them.

    Args:
        model: its name.
        request: what is answered; only its outputs are written.
        arrays: the model's outputs by name: arrays of the dtypes in `DTYPES` or of strings, or lists of maps.

    Returns:
        The body, and its headers.
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
            tensor["data"] = to_json(array)
        tensors.append(tensor)
    identity = {} if request.id is None else {"id": request.id}
    answer = {"model_name": model, "model_version": VERSION, **identity, "outputs": tensors}
    head = json.dumps(answer, allow_nan=False).encode()
    if not binary:
        return head, {"Content-Type": "application/json"}
    return b"".join((head, *binary)), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def _columns(maps: Sequence[Mapping[Any, float]]) -> npt.NDArray[np.float32]:
    """(N, K): the numbers of each map by its sorted keys."""
    rows = [[row[key] for key in sorted(row)] for row in maps]
    return np.array(rows, np.float32).reshape(len(rows), len(rows[0]) if rows else 0)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON, and the binary tensor behind it."""
    if header_length is None:
        return body, memoryview(b"")
    is_number = header_length.isascii() and header_length.isdecimal() and len(header_length) < 20
    if not is_number or int(header_length) > len(body):
        raise InputError(
            f"{HEADER_LENGTH} must be the number of bytes of the JSON, at most the {len(body)} bytes that came, "
            f"got {short(header_length)}"
        )
    return body[: int(header_length)], memoryview(body)[int(header_length) :]


def _parse_json(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON: {error}") from error


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} must be a JSON object, got {short(value)}")
    return value


def _parameters(owner: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = _object(owner.get("parameters", {}), f"parameters of {what}")
    if "shared_memory_region" in parameters:
        raise InputError(f"{what}: shared memory is not supported; send the tensor in the request")
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {short(value)}")
    return value


def _parse_input(request: dict[str, Any], tail: memoryview, spec: InputSpec) -> npt.NDArray[Any]:
    """The one input that there must be, of the model's dtype and of the shape that it says."""
    tensors = request.get("inputs")
    if not isinstance(tensors, list) or len(tensors) != 1:
        got = f"{len(tensors)} tensors" if isinstance(tensors, list) else short(tensors)
        raise InputError(f"inputs must be a list of one tensor, {spec.name!r}, got {got}")
    tensor, what = _object(tensors[0], "an input"), f"input {spec.name!r}"
    if tensor.get("name") != spec.name:
        raise InputError(f"the model's input is {spec.name!r}, got {short(tensor.get('name'))}")
    datatype = INPUTS[spec.dtype]
    if tensor.get("datatype") != datatype:
        raise InputError(f"{what} is of datatype {datatype}, got {short(tensor.get('datatype'))}")
    shape = _parse_shape(tensor.get("shape"), what)
    values = _read_values(tensor, shape, tail, datatype, what)
    try:
        return values.reshape(shape)
    except ValueError as error:
        raise InputError(f"{what}: no array can have shape {short(shape)}") from error


def _parse_shape(raw: object, what: str) -> tuple[int, ...]:
    if (
        not isinstance(raw, list)
        or len(raw) > MAX_AXES
        or not all(type(size) is int and 0 <= size < 2**63 for size in raw)
    ):
        raise InputError(f"shape of {what} must be a list of non-negative integers, got {short(raw)}")
    return tuple(raw)


def _read_values(
    tensor: dict[str, Any], shape: tuple[int, ...], tail: memoryview, datatype: str, what: str
) -> npt.NDArray[Any]:
    """The tensor's values, from the JSON or from the bytes behind it."""
    size = _parameters(tensor, what).get("binary_data_size")
    if (size is None) == ("data" not in tensor):
        raise InputError(f"{what} must have either data or the parameter binary_data_size")
    if size is not None:
        return from_bytes(size, shape, tail, datatype, what)
    if len(tail):
        raise InputError(f"{len(tail)} bytes follow the JSON, but {what} has no binary_data_size")
    return from_json(tensor["data"], shape, datatype, what)


def _parse_outputs(request: dict[str, Any], known: Sequence[str]) -> dict[str, bool]:
    """The outputs to write, and whether as binary."""
    binary = _flag(_parameters(request, "the request"), "binary_data_output", False)
    wanted = request.get("outputs", [])
    if not isinstance(wanted, list):
        raise InputError(f"outputs must be a list, got {short(wanted)}")
    return dict(_parse_output(output, binary, known) for output in wanted) or dict.fromkeys(known, binary)


def _parse_output(output: object, binary: bool, known: Sequence[str]) -> tuple[str, bool]:
    described = _object(output, "an output")
    name = described.get("name")
    if name not in known:
        raise InputError(f"the model's outputs are {', '.join(known)}, got {short(name)}")
    parameters = _parameters(described, f"output {name!r}")
    if "classification" in parameters:
        raise InputError(f"output {name!r}: classification is not supported; read mmguard_label instead")
    return str(name), _flag(parameters, "binary_data", binary)
