"""A request of the Open Inference Protocol v2: its bytes to an array and to what is asked.

The tensor's data, where they are long, are taken out of the JSON and read a slice at a time. What is left is small, and
read over once, in which nothing is made of its fields; each is decoded only once its length is known to be small. So
what a request costs is bounded by its bytes, no step of it keeps other threads waiting, and every size that it claims
is checked against the bytes that came before anything is made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Annotated, Any, TypeVar

import msgspec
import numpy.typing as npt
from msgspec import Meta, Raw

from mmguard.errors import InputError
from mmguard.guard.serving.body import MAX_JSON_BYTES, too_large
from mmguard.guard.serving.cut import cut_list
from mmguard.guard.serving.tensors import HEADER_LENGTH, INPUTS, from_bytes, from_json
from mmguard.inputs.checks import shape_fits
from mmguard.inputs.spec import InputSpec

MAX_FIELD_BYTES = 2**16
"""Of every field but the tensor's data; a field holds some names, or a few numbers."""
MAX_AXES = 64
"""NumPy has no arrays of more."""
NULL = Raw(b"null")
Shape = Annotated[list[Annotated[int, Meta(ge=0, le=2**63 - 1)]], Meta(max_length=MAX_AXES)]
Field = TypeVar("Field")


@dataclass(frozen=True)
class InferenceRequest:
    """What a client asks.

    Attributes:
        id: the client's own, given back in the response; None where it gave none.
        x: of the model's dtype and shape.
        outputs: in the order to answer in, by name, whether the output goes as binary.
    """

    id: str | None
    x: npt.NDArray[Any]
    outputs: Mapping[str, bool]


class _Tensor(msgspec.Struct):
    """The fields of an input as they came. A field that is not there is null: both mean the same."""

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
    """Of the request or of an input. Others are ignored."""

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
    """Read a request.

    Args:
        body: the request's body, decompressed.
        header_length: value of the header `Inference-Header-Content-Length`, None where there is none.
        spec: the model's one input.
        outputs: names of what the model answers, all of it where the request names none.
        max_json_bytes: of the body, without the binary tensor.

    Raises:
        InputError: it is malformed, or asks for what the model does not have.
        RequestTooLargeError: its JSON is longer than `max_json_bytes`.
    """
    head, tail = _split(body, header_length)
    if len(head) > max_json_bytes:
        raise too_large(max_json_bytes)
    request, data = _read_over(head)
    identity = _field(request.id, str | None, "id")
    x = _parse_input(request.inputs[0], data, tail, spec)
    return InferenceRequest(identity, x, _parse_outputs(request, outputs))


def _split(body: bytes | bytearray, header_length: str | None) -> tuple[memoryview, memoryview]:
    """The JSON, and the binary tensor behind it."""
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[:0]
    is_number = header_length.isascii() and header_length.isdecimal() and len(header_length) < 20
    if not is_number or int(header_length) > len(body):
        raise InputError(
            f"{HEADER_LENGTH} must be the number of bytes of the JSON, at most the {len(body)} bytes that came, "
            f"got {short(header_length)}"
        )
    return whole[: int(header_length)], whole[int(header_length) :]


def _read_over(head: memoryview) -> tuple[_Request, memoryview]:
    """The fields of a request as they came, and the tensor's data."""
    cut = cut_list(head)
    request = _decode(cut.rest)
    data = request.inputs[0].data
    if cut.mark and data != Raw(cut.mark):
        raise InputError(f"no field but a tensor's data may have more than {MAX_FIELD_BYTES} bytes of JSON")
    return request, cut.numbers if cut.mark else memoryview(data)


def _decode(text: memoryview) -> _Request:
    try:
        return msgspec.json.decode(text, type=_Request)
    except msgspec.ValidationError as error:
        raise InputError(f"the request must be a JSON object whose inputs are a list of one tensor: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        start = bytes(text[:MAX_FIELD_BYTES])
        hint = "; JSON has no NaN or Infinity: send them as binary" if b"NaN" in start or b"Infinity" in start else ""
        raise InputError(f"the request is not JSON: {error}{hint}") from error


def _field(raw: Raw, kind: Any, what: str) -> Any:
    """Decode a field that is not the data."""
    if len(raw) > MAX_FIELD_BYTES:
        raise InputError(f"{what} may have {MAX_FIELD_BYTES} bytes of JSON, got {len(raw)}")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{what}: {error}") from error


def _is_null(raw: Raw) -> bool:
    return raw == NULL


def _parameters(raw: Raw, what: str) -> _Parameters:
    parameters = _field(raw, _Parameters | None, f"parameters of {what}") or _Parameters()
    _refuse_shared_memory(parameters, what)
    return parameters


def _refuse_shared_memory(parameters: _Parameters | _OutputParameters, what: str) -> None:
    if not _is_null(parameters.shared_memory_region):
        raise InputError(f"{what}: shared memory is not supported; send the tensor in the request")


def _parse_input(tensor: _Tensor, data: memoryview, tail: memoryview, spec: InputSpec) -> npt.NDArray[Any]:
    """The one input that there must be, of the model's dtype and of the shape that it says."""
    what = f"input {spec.name!r}"
    if (name := _field(tensor.name, str | None, "the input's name")) != spec.name:
        raise InputError(f"the model's input is {spec.name!r}, got {short(name)}")
    if (datatype := _field(tensor.datatype, str | None, f"datatype of {what}")) != INPUTS[spec.dtype]:
        raise InputError(f"{what} is of datatype {INPUTS[spec.dtype]}, got {short(datatype)}")
    shape = tuple(_field(tensor.shape, Shape, f"shape of {what}"))
    _check_shape(shape, spec)
    values = _read_values(tensor, data, shape, tail, datatype, what)
    try:
        return values.reshape(shape)
    except ValueError as error:
        raise InputError(f"{what}: no array can have shape {short(list(shape))}") from error


def _check_shape(shape: tuple[int, ...], spec: InputSpec) -> None:
    """Refuse a shape that is not the model's before any value is read."""
    if not shape_fits(shape, (None, *spec.shape[1:])):
        expected = ", ".join(["N", *(str(size or "any") for size in spec.shape[1:])])
        hint = "; one input alone needs a batch axis: x[None]" if len(shape) == len(spec.shape) - 1 else ""
        raise InputError(f"input {spec.name!r}: expected shape [{expected}], got {short(list(shape))}{hint}")


def _read_values(
    tensor: _Tensor, data: memoryview, shape: tuple[int, ...], tail: memoryview, datatype: str, what: str
) -> npt.NDArray[Any]:
    """The tensor's values, from the JSON or from the bytes behind it."""
    size = _parameters(tensor.parameters, what).binary_data_size
    if (size is None) == (bytes(data[:5]) == b"null"):
        raise InputError(f"{what} must have either data or the parameter binary_data_size")
    if size is not None:
        return from_bytes(size, shape, tail, datatype, what)
    if len(tail):
        raise InputError(f"{len(tail)} bytes follow the JSON, but {what} has no binary_data_size")
    return from_json(data, shape, datatype, what)


def _parse_outputs(request: _Request, known: Sequence[str]) -> dict[str, bool]:
    """The outputs to write, and whether as binary."""
    binary = _parameters(request.parameters, "the request").binary_data_output or False
    wanted = _field(request.outputs, list[_Output] | None, "outputs") or []
    return dict(_parse_output(output, binary, known) for output in wanted) or dict.fromkeys(known, binary)


def _parse_output(output: _Output, binary: bool, known: Sequence[str]) -> tuple[str, bool]:
    if output.name not in known:
        raise InputError(f"the model's outputs are {', '.join(known)}, got {short(output.name)}")
    parameters = output.parameters or _OutputParameters()
    _refuse_shared_memory(parameters, f"output {output.name!r}")
    if not _is_null(parameters.classification):
        raise InputError(f"output {output.name!r}: classification is not supported; read mmguard_label instead")
    return output.name, binary if parameters.binary_data is None else parameters.binary_data
