"""What a model offers by the Open Inference Protocol v2 over HTTP, and a response's bytes.

Both forms of the protocol are read and written: numbers in the JSON, and Triton's binary tensor extension, where the
header `Inference-Header-Content-Length` says how many bytes the JSON has and the tensors follow it. Sources:
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
}
"""Datatypes of what the guard says of each input, (N,) each, in the order of a response; see `types.Decision`."""
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
            tensor["data"] = msgspec.Raw(to_json(array))
        tensors.append(tensor)
    identity = {} if request.id is None else {"id": request.id}
    answer = {"model_name": model, "model_version": VERSION, **identity, "outputs": tensors}
    head = msgspec.json.encode(answer)
    if not binary:
        return head, {"Content-Type": "application/json"}
    return b"".join((head, *binary)), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def _columns(maps: Sequence[Mapping[Any, float]]) -> npt.NDArray[np.float32]:
    """(N, K): the numbers of each map by its sorted keys."""
    rows = [[row[key] for key in sorted(row)] for row in maps]
    return np.array(rows, np.float32).reshape(len(rows), len(rows[0]) if rows else 0)
