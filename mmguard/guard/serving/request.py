"""Parses requests of the Open Inference Protocol v2 into an input array and the outputs to return.

A long list of tensor data is extracted from the JSON first and decoded slice by slice. The remaining JSON
is small. It is parsed once, and every field is kept as raw JSON. A field is decoded only if it is short. Therefore, the
cost of parsing is bounded by the size of the request, and no step blocks other threads for long. Every size stated in a
request is compared with the number of bytes received before any memory of that size is allocated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Annotated, Any, TypeVar

import msgspec
import numpy.typing as npt
from msgspec import Meta, Raw

from mmguard.errors import InputError
from mmguard.guard.serving.json_numbers import extract_numbers
from mmguard.guard.serving.options import MAX_JSON_BYTES, check_size
from mmguard.guard.serving.tensors import HEADER_LENGTH, INPUTS, from_bytes, from_json
from mmguard.inputs.batch_checks import shape_fits
from mmguard.inputs.spec import InputSpec

MAX_FIELD_BYTES = 2**16
"""Maximum size, in bytes, of every field except the tensor's data. Other fields contain only a few names or numbers."""
MAX_AXES = 64
"""Maximum number of axes of a tensor. NumPy has the same limit."""
NULL = Raw(b"null")
Shape = Annotated[list[Annotated[int, Meta(ge=0, le=2**63 - 1)]], Meta(max_length=MAX_AXES)]
Field = TypeVar("Field")


@dataclass(frozen=True)
class InferenceRequest:
    """A parsed inference request.

    Attributes:
        id: the id in the request, which the response repeats; None if the request has no id.
        x: the input batch (N, ...) of the model's dtype.
        outputs: the outputs to return, in order. The keys are the names of the outputs. The value is True for an output
            to return as a binary tensor, and False for an output to return as JSON.
    """

    id: str | None
    x: npt.NDArray[Any]
    outputs: Mapping[str, bool]


class _Tensor(msgspec.Struct):
    """An input tensor, with its fields as raw JSON. A field that is null is treated as absent."""

    name: Raw = NULL
    shape: Raw = NULL
    datatype: Raw = NULL
    data: Raw = NULL
    parameters: Raw = NULL


class _Request(msgspec.Struct):
    inputs: tuple[_Tensor]
    id: Raw = NULL
    outputs: Raw = NULL
    parameters: Raw = NULL


class _Parameters(msgspec.Struct):
    """Parameters of the request or of an input. Unknown parameters are ignored."""

    shared_memory_region: Raw = NULL
    binary_data_size: int | None = None
    binary_data_output: bool | None = None


class _OutputParameters(msgspec.Struct):
    shared_memory_region: Raw = NULL
    classification: Raw = NULL
    binary_data: bool | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: _OutputParameters | None = None


def parse_request(
    body: bytes | bytearray,
    header_length: str | None,
    spec: InputSpec,
    outputs: Sequence[str],
    max_json_bytes: int = MAX_JSON_BYTES,
) -> InferenceRequest:
    """Parse an inference request.

    Args:
        body: body of the request, decompressed.
        header_length: value of the header `Inference-Header-Content-Length`; None if the header is absent.
        spec: specification of the model's only input.
        outputs: names of all available outputs. If the request does not list any outputs, all available outputs are
            returned.
        max_json_bytes: maximum size of the JSON in the body, in bytes, not counting the binary tensor.

    Returns:
        The request.

    Raises:
        InputError: The request is malformed, does not fit the model, or uses an unsupported feature.
        RequestTooLargeError: The JSON is longer than `max_json_bytes`.
    """
    head, binary = _split(body, header_length)
    check_size(len(head), max_json_bytes)
    request, data = _parse_json(head)
    identity = _field(request.id, str | None, "id")
    x = _parse_input(request.inputs[0], data, binary, spec)
    return InferenceRequest(identity, x, _parse_outputs(request, outputs))


def _split(body: bytes | bytearray, header_length: str | None) -> tuple[memoryview, memoryview]:
    """Split a body into the JSON and the binary tensor after it."""
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[:0]
    is_number = header_length.isascii() and header_length.isdecimal() and len(header_length) < 20
    if not is_number or int(header_length) > len(body):
        raise InputError(
            f"{HEADER_LENGTH} must be the length of the JSON in bytes (at most {len(body)} for this body), got "
            f"{short(header_length)}"
        )
    return whole[: int(header_length)], whole[int(header_length) :]


def _parse_json(head: memoryview) -> tuple[_Request, memoryview]:
    """Return the fields of a request as raw JSON, and the text of the tensor's data."""
    extracted = extract_numbers(head)
    request = _decode(extracted.rest)
    data = request.inputs[0].data
    if not extracted.placeholder:
        return request, memoryview(data)
    if data != Raw(extracted.placeholder):
        raise InputError(
            f"only inputs[0].data may be longer than {MAX_FIELD_BYTES} bytes of JSON; shorten the other fields"
        )
    return request, extracted.numbers


def _decode(text: memoryview) -> _Request:
    try:
        return msgspec.json.decode(text, type=_Request)
    except msgspec.ValidationError as error:
        raise InputError(f"the request must be a JSON object with exactly one tensor in inputs: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        start = bytes(text[:MAX_FIELD_BYTES])
        hint = "; to send NaN or infinity, use a binary tensor" if b"NaN" in start or b"Infinity" in start else ""
        raise InputError(f"the request is not valid JSON: {error}{hint}") from error


def _field(raw: Raw, kind: Any, what: str) -> Any:
    """Decode a field other than the tensor's data."""
    if len(raw) > MAX_FIELD_BYTES:
        raise InputError(f"{what} may have at most {MAX_FIELD_BYTES} bytes of JSON, got {len(raw)}; shorten this field")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{what}: {error}") from error


def _is_null(raw: Raw) -> bool:
    return raw == NULL


def _parameters(raw: Raw, what: str) -> _Parameters:
    parameters = _field(raw, _Parameters | None, f"parameters of {what}") or _Parameters()
    _reject_shared_memory(parameters, what)
    return parameters


def _reject_shared_memory(parameters: _Parameters | _OutputParameters, what: str) -> None:
    if not _is_null(parameters.shared_memory_region):
        raise InputError(f"{what}: shared_memory_region is not supported; send tensors in the HTTP body")


def _parse_input(tensor: _Tensor, data: memoryview, binary: memoryview, spec: InputSpec) -> npt.NDArray[Any]:
    """Return the values of the only input after checking its name, datatype and shape."""
    what = f"input {spec.name!r}"
    if (name := _field(tensor.name, str | None, "name of the input")) != spec.name:
        raise InputError(f"expected input name {spec.name!r}, got {short(name)}")
    if (datatype := _field(tensor.datatype, str | None, f"datatype of {what}")) != INPUTS[spec.dtype]:
        raise InputError(f"{what}: expected datatype {INPUTS[spec.dtype]}, got {short(datatype)}")
    shape = tuple(_field(tensor.shape, Shape, f"shape of {what}"))
    _check_shape(shape, spec)
    values = _read_values(tensor, data, shape, binary, datatype, what)
    try:
        return values.reshape(shape)
    except ValueError as error:
        raise InputError(f"{what}: shape {short(list(shape))} is too large for an array") from error


def _check_shape(shape: tuple[int, ...], spec: InputSpec) -> None:
    """Check that a shape fits the model before any value is read."""
    if not shape_fits(shape, (None, *spec.shape[1:])):
        expected = ", ".join(["N", *(str(size or "any") for size in spec.shape[1:])])
        hint = "; add a batch axis to a single input: x[None]" if len(shape) == len(spec.shape) - 1 else ""
        raise InputError(f"input {spec.name!r}: expected shape [{expected}], got {short(list(shape))}{hint}")


def _read_values(
    tensor: _Tensor, data: memoryview, shape: tuple[int, ...], binary: memoryview, datatype: str, what: str
) -> npt.NDArray[Any]:
    """Return the tensor's values as a flat array, decoded from the JSON or from the bytes after the JSON."""
    size = _parameters(tensor.parameters, what).binary_data_size
    if (size is None) == (bytes(data[:5]) == b"null"):
        raise InputError(f"{what} must have either data or parameters.binary_data_size, but not both")
    if size is not None:
        return from_bytes(size, shape, binary, datatype, what)
    if len(binary):
        raise InputError(
            f"{len(binary)} bytes follow the JSON, but {what} has no parameters.binary_data_size; set this "
            "parameter to the size of the tensor in bytes"
        )
    return from_json(data, shape, datatype, what)


def _parse_outputs(request: _Request, known: Sequence[str]) -> dict[str, bool]:
    """Return a map with one entry per output to send: its name, and whether to send a binary tensor instead of JSON."""
    binary = _parameters(request.parameters, "the request").binary_data_output or False
    wanted = _field(request.outputs, list[_Output] | None, "outputs") or []
    return dict(_parse_output(output, binary, known) for output in wanted) or dict.fromkeys(known, binary)


def _parse_output(output: _Output, binary: bool, known: Sequence[str]) -> tuple[str, bool]:
    if output.name not in known:
        raise InputError(f"unknown output name {short(output.name)}; available outputs: {', '.join(known)}")
    parameters = output.parameters or _OutputParameters()
    _reject_shared_memory(parameters, f"output {output.name!r}")
    if not _is_null(parameters.classification):
        raise InputError(f"output {output.name!r}: classification is not supported; use the output mmguard_label")
    return output.name, binary if parameters.binary_data is None else parameters.binary_data
