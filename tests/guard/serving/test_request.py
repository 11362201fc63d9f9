import json
import random
import tracemalloc
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from mmguard.errors import InputError, RequestTooLargeError
from mmguard.guard.serving import json_numbers as json_numbers_module
from mmguard.guard.serving import tensors as tensors_module
from mmguard.guard.serving.json_numbers import MAX_REST_BYTES
from mmguard.guard.serving.request import MAX_FIELD_BYTES, InferenceRequest, parse_request
from mmguard.guard.serving.tensors import HEADER_LENGTH, SLICE
from mmguard.inputs.spec import InputSpec
from tests.bundles import Array

LOW, HIGH = np.zeros(1, np.float32), np.ones(1, np.float32)
SPEC = InputSpec("x", (None, 2), LOW, HIGH)
OUTPUTS = ("logits", "mmguard_label")
TENSOR = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}


def parse(request: object, binary: bytes = b"", header: str | None = None, spec: InputSpec = SPEC) -> InferenceRequest:
    head = json.dumps(request).encode()
    if binary and header is None:
        header = str(len(head))
    return parse_request(head + binary, header, spec, OUTPUTS)


def dynamic(axes: int) -> InputSpec:
    """An input of so many axes, each of any length."""
    return InputSpec("x", (None,) * axes, LOW, HIGH)


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
    assert parse(with_tensor(shape=shape, data=[]), spec=dynamic(2)).x.shape == tuple(shape)
    assert parse(with_binary(0, shape=shape), spec=dynamic(2)).x.shape == tuple(shape)


@pytest.mark.parametrize("special", ["1e300", "-1e300"])
def test_numbers_that_float32_cannot_hold_reach_the_guard_as_infinite(special: str) -> None:
    body = json.dumps(with_tensor()).replace("[1, 2, 3, 4]", f"[1, 2, 3, {special}]").encode()
    assert np.isinf(parse_request(body, None, SPEC, OUTPUTS).x[1, 1])


@pytest.mark.parametrize("special", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_refused_with_advice(special: str) -> None:
    body = json.dumps(with_tensor()).replace("[1, 2, 3, 4]", f"[1, 2, 3, {special}]").encode()
    with pytest.raises(InputError, match=r"not valid JSON.*use a binary tensor"):
        parse_request(body, None, SPEC, OUTPUTS)


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
        ([], "the request must be a JSON object.*got `array`"),
        ({}, "exactly one tensor in inputs.*missing required field `inputs`"),
        ({"inputs": {}}, "exactly one tensor in inputs.*got `object`"),
        ({"inputs": []}, "exactly one tensor in inputs"),
        ({"inputs": [TENSOR, TENSOR]}, "exactly one tensor in inputs"),
        ({"inputs": ["x"]}, r"got `str` - at `\$\.inputs\[0\]`"),
        ({"inputs": None}, "exactly one tensor in inputs"),
        (with_tensor(name="y"), "expected input name 'x', got 'y'"),
        (with_tensor(name=None), "expected input name 'x', got None"),
        (with_tensor(datatype="FP64"), "expected datatype FP32, got 'FP64'"),
        (with_tensor(datatype=None), "expected datatype FP32, got None"),
        (with_tensor(shape=None), "shape of input 'x': Expected `array`"),
        (with_tensor(shape=4), "shape of input 'x': Expected `array`"),
        (with_tensor(shape=[-1, 2]), "Expected `int` >= 0"),
        (with_tensor(shape=[2**63, 2]), "Expected `int` <= "),
        (with_tensor(shape=[10**30, 2]), "Expected `int`|out of range"),
        (with_tensor(shape=[2.0, 2]), "Expected `int`"),
        (with_tensor(shape=[True, 4]), "Expected `int`"),
        (with_tensor(shape=[1] * 65), "length <= 64"),
        (with_tensor(shape=[3, 2]), "to match the shape "),
        (with_tensor(shape=[2**40, 2]), "to match the shape "),
        (with_tensor(shape=[2**40, 2**40]), r"expected shape \[N, 2\]"),
        (with_tensor(shape=[2]), r"expected shape \[N, 2\].*x\[None\]"),
        (with_tensor(data=[[1, 2, 3, 4]]), "to match the shape "),
        (with_tensor(data=[[1, 2, 3, 4], []]), "to match the shape "),
        (with_tensor(data=[[[1, 2], [3, 4]]]), "to match the shape "),
        (with_tensor(data=[[[1, 2]], [[3, 4]]]), "to match the shape "),
        (with_tensor(data=[]), "to match the shape "),
        (with_tensor(data=[[], []]), "to match the shape "),
        (with_tensor(data=[[1, 2], [3]]), "to match the shape "),
        (with_tensor(data=["1", "2", "3", "4"]), "a list of numbers"),
        (with_tensor(data=[1, 2, 3, None]), "a list of numbers"),
        (with_tensor(data=[1, 2, 3, 10**400]), "the range of float64"),
        (with_tensor(data=[True, False, True, False]), "a list of numbers"),
        (with_tensor(data="1234"), "a list of numbers"),
        (with_tensor(data={"0": 1}), "a list of numbers"),
        (with_tensor(data=None), "either data or parameters.binary_data_size, but not both"),
        (with_tensor(parameters={"binary_data_size": 16}), "either data or parameters.binary_data_size, but not both"),
        (with_tensor(parameters=[]), "parameters of input 'x': Expected `object . null`, got `array`"),
        (with_tensor(data=None, parameters={"shared_memory_region": "r"}), "shared_memory_region is not supported"),
        (with_binary(16), "0 bytes follow the JSON"),
        (with_binary(-16), "binary_data_size is -16"),
        (with_binary("16"), "got `str` - at `..binary_data_size`"),
        (with_binary(True), "got `bool` - at `..binary_data_size`"),
        (with_binary(10**30), "binary_data_size is 10000"),
        (with_tensor() | {"id": 7}, "id: Expected `str . null`, got `int`"),
        (with_tensor() | {"parameters": 1}, "parameters of the request: Expected `object . null`, got `int`"),
        (with_tensor() | {"parameters": {"binary_data_output": 1}}, "got `int` - at `..binary_data_output`"),
        (with_tensor() | {"outputs": "logits"}, "outputs: Expected `array . null`, got `str`"),
        (with_tensor() | {"outputs": ["logits"]}, r"outputs: Expected `object`, got `str`"),
        (with_tensor() | {"outputs": [{}]}, "outputs: Object missing required field `name`"),
        (with_tensor() | {"outputs": [{"name": ["logits"]}]}, "outputs: Expected `str`, got `array`"),
        (with_tensor() | {"outputs": [{"name": "probabilities"}]}, "unknown output name 'probabilities'"),
        (
            with_tensor() | {"outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
            "got `str` - at .*binary_data`",
        ),
        (
            with_tensor() | {"outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
            "classification is not supported",
        ),
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
        (with_binary(15), bytes(15), "needs 16 bytes"),
        (with_binary(12), bytes(16), "binary_data_size is 12"),
        (with_binary(16, shape=[4, 2]), bytes(16), "needs 32 bytes"),
        (with_binary(16, shape=[2**62, 2]), bytes(16), "bytes follow"),
        (with_tensor(), bytes(16), "16 bytes follow the JSON, but input 'x' has no parameters.binary_data_size"),
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
    with pytest.raises(InputError, match="not valid JSON"):
        parse(with_binary(16), bytes(16), header)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe\xff", b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000, b'{"inputs":[{}]} x']
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InputError, match=r"not valid JSON|must be a JSON object|besides one list of numbers"):
        parse_request(body, None, SPEC, OUTPUTS)


def test_an_error_quotes_little_of_what_came() -> None:
    with pytest.raises(InputError) as caught:
        parse(with_tensor(name="y" * 10_000))
    assert len(str(caught.value)) < 200


NULLS: list[dict[str, Any]] = [
    {"id": None},
    {"parameters": None},
    {"outputs": None},
    {"outputs": []},
    {"inputs": [TENSOR | {"parameters": None}]},
    {"inputs": [TENSOR | {"parameters": {"binary_data_size": None, "shared_memory_region": None}}]},
    {"id": None, "parameters": None, "outputs": None, "inputs": [TENSOR | {"parameters": None}]},
    {"parameters": {"binary_data_output": None}},
]


@pytest.mark.parametrize("nulls", NULLS)
def test_a_field_that_is_null_is_absent(nulls: dict[str, Any]) -> None:
    request = parse(with_tensor() | nulls)
    np.testing.assert_array_equal(request.x, [[1, 2], [3, 4]])
    assert (request.id, request.outputs) == (None, {"logits": False, "mmguard_label": False})


def test_data_that_is_null_beside_binary_data_is_absent() -> None:
    tensor = TENSOR | {"data": None, "parameters": {"binary_data_size": 16}}
    request = parse({"inputs": [tensor]}, np.arange(4, dtype="<f4").tobytes())
    np.testing.assert_array_equal(request.x, [[0, 1], [2, 3]])


def test_an_output_s_nulls_are_absent() -> None:
    parameters = {"binary_data": None, "classification": None, "shared_memory_region": None}
    outputs = [{"name": "logits", "parameters": None}, {"name": "mmguard_label", "parameters": parameters}]
    assert parse(with_tensor() | {"outputs": outputs}).outputs == {"logits": False, "mmguard_label": False}


@pytest.mark.parametrize("spaces", [("", ""), (" ", "\n"), ("\r\n\t", "")])
@pytest.mark.parametrize("nested", [False, True])
def test_many_numbers_are_read_as_a_json_parser_reads_them(nested: bool, spaces: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (SLICE // 8, 2)) * 10.0 ** rng.integers(-30, 30, (SLICE // 8, 2))
    data = values.tolist() if nested else values.ravel().tolist()
    text = json.dumps(with_tensor(shape=list(values.shape), data=data))
    body = text.replace("[", f"{spaces[0]}[{spaces[1]}").replace(",", f"{spaces[1]},{spaces[0]}").encode()
    expected = np.array(json.loads(body)["inputs"][0]["data"]).astype(np.float32).reshape(-1, 2)
    np.testing.assert_array_equal(parse_request(body, None, SPEC, OUTPUTS).x, expected)


LONG = f"[{'1,' * SLICE}1]"
LONG_TENSOR = f'{{"name": "x", "datatype": "FP32", "shape": [{SLICE + 1}, 1], "data": {LONG}}}'


def read_text(text: str) -> Array:
    x: Array = parse_request(text.encode(), None, dynamic(2), OUTPUTS).x
    return x


def test_long_data_are_read_wherever_they_stand_in_the_request() -> None:
    for shift in range(0, SLICE, SLICE // 7):
        for after in ("", " \n", ', "parameters": {}', '  ,\n"parameters": null, "more": [1, 2]'):
            tensor = LONG_TENSOR[:-1] + after + "}"
            text = f'{{"id": "{"i" * (shift % 60_000)}", "more": [{"1, " * (shift // 4)}1], "inputs": [{tensor}]}}'
            np.testing.assert_array_equal(read_text(text), np.ones((SLICE + 1, 1)))


@pytest.mark.parametrize(
    "text",
    [
        f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [0, 1], "data": []}}], "more": {LONG}}}',
        f'{{"inputs": [{LONG_TENSOR}], "id": {LONG}}}',
        f'{{"inputs": [{LONG_TENSOR}], "id": "{LONG}"}}',
        f'{{"id": "{LONG}", "inputs": [{LONG_TENSOR}]}}',
        f'{{"inputs": [{LONG_TENSOR[:-1]}, "data": [1, 2]}}]}}',
        f'{{"inputs": [{LONG_TENSOR[:-1]}, "data": null}}]}}',
        f'{{"inputs": [{LONG_TENSOR}]}} {LONG}',
        LONG,
    ],
    ids=str.split("more id text before data null behind alone"),
)
def test_of_a_long_list_that_is_not_the_data_nothing_is_read(text: str) -> None:
    with pytest.raises(InputError):
        read_text(text)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("[[1,2],[3,4]", "[[1,2],3[,4]"), ("[[1,2],", "[[1,]2,"), ("[[1,2],", "1[[,2],"), ("[[1,2],", "[[1 ,2]1 ,")],
)
def test_numbers_beside_their_brackets_are_refused(right: str, wrong: str) -> None:
    rows = SLICE // 2
    text = json.dumps(with_tensor(shape=[rows, 2], data=[[1, 2], [3, 4]] * (rows // 2)), separators=(",", ":"))
    np.testing.assert_array_equal(read_text(text), np.tile([[1, 2], [3, 4]], (rows // 2, 1)))
    with pytest.raises(InputError, match="to match the shape"):
        read_text(text.replace(right, wrong, 1))


def read_by_a_parser(text: str) -> Array:
    """What a JSON parser makes of a request; raises where it is none, or its data are no numbers of its shape."""
    (tensor,) = json.loads(text)["inputs"]
    numbers, shape = tensor["data"], tensor["shape"]
    with np.errstate(over="ignore"):
        x = np.array(numbers, np.float64).astype(np.float32)
    if x.shape not in (tuple(shape), (2 * shape[0],)):
        raise ValueError(x.shape)
    return x.reshape(shape)


def test_where_a_request_was_mangled_it_is_refused_or_read_as_a_parser_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module, bytes_at_once in ((json_numbers_module, 24), (tensors_module, 40)):
        monkeypatch.setattr(module, "SLICE", bytes_at_once)
    rng, outcomes = random.Random(0), Counter[str]()
    for _ in range(3000):
        values = np.arange(2 * rng.choice([1, 2, 5, 20])).reshape(-1, 2) * 0.25
        fields = list(
            with_tensor(shape=values.shape, data=rng.choice([values, values.ravel()]).tolist())["inputs"][0].items()
        )
        rng.shuffle(fields)
        text = json.dumps({"inputs": [dict(fields)], "id": "i" * rng.randrange(40)})
        for _ in range(rng.randrange(3)):
            at, put = rng.randrange(len(text)), rng.choice(["", *'[],1 0.eE-+"{}:\n'])
            text = text[:at] + put + text[at + rng.randrange(2) :]
        try:
            x = read_text(text)
        except InputError:
            outcomes["refused"] += 1
        else:
            np.testing.assert_array_equal(x, read_by_a_parser(text), err_msg=text)
            outcomes["read"] += 1
    assert min(outcomes.values()) > 500


def test_while_a_request_is_read_other_threads_run() -> None:
    """Of what is read in one go, no more than some slices are ever given to a parser that no thread interrupts."""
    given, decode = list[int](), msgspec.json.decode

    def counted(text: Any, **options: Any) -> Any:
        given.append(len(text))
        return decode(text, **options)

    many = 3 * 2**20
    bodies = [START + b"[" + filler * many + b"1]}]}" for filler in (b"1,", b"[],", b"{},", b"1.5,", b"null,")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msgspec.json, "decode", counted)
        for body in bodies:
            with pytest.raises(InputError):
                parse_request(body, None, SPEC, OUTPUTS)
        read_text(LONG_TENSOR.join(('{"inputs": [', "]}")))
    assert 0 < max(given) <= MAX_REST_BYTES


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([1], [5]),
        ([1, 1, 1], [[[5]]]),
        ([2, 1], [[1], [2]]),
        ([1, 2], [[1, 2]]),
        ([2, 3, 2], np.ones((2, 3, 2)).tolist()),
    ],
)
def test_data_nested_as_the_shape_says_is_read(shape: list[int], data: list[Any]) -> None:
    request = parse(with_tensor(shape=shape, data=data), spec=dynamic(len(shape)))
    np.testing.assert_array_equal(request.x, np.array(data, np.float32))


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([1, 1], []),
        ([1, 1], [[]]),
        ([2, 1], [[], []]),
        ([2, 1], [[], [1]]),
        ([2, 0], [[1], [2]]),
        ([2, 0], [[]]),
        ([0], [1]),
        ([0], [[]]),
        ([2**40, 2**40], [1]),
        ([2**40] * 64, [[1]]),
    ],
)
def test_data_of_another_form_than_the_shape_says_are_refused(shape: list[int], data: list[Any]) -> None:
    with pytest.raises(InputError, match="to match the shape"):
        parse(with_tensor(shape=shape, data=data), spec=dynamic(len(shape)))


def test_a_shape_that_no_array_can_have_is_refused() -> None:
    for request in (with_tensor(shape=[0, 2**40, 2**40], data=[]), with_binary(0, shape=[0, 2**40, 2**40])):
        with pytest.raises(InputError, match="is too large for an array"):
            parse(request, spec=dynamic(3))


def test_of_a_shape_that_is_not_the_model_s_no_value_is_read() -> None:
    x = bytes(8 * 10**6)
    head = json.dumps(with_binary(len(x), shape=[2, 10**6])).encode()
    body = head + x
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="expected shape"):
            parse_request(body, str(len(head)), SPEC, OUTPUTS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10**6


def test_integers_are_checked_against_the_datatype() -> None:
    spec = InputSpec("x", (None, 2), LOW, HIGH, dtype="uint8")
    tensor = {"name": "x", "shape": [1, 2], "datatype": "UINT8"}

    def read(data: list[Any]) -> Any:
        return parse_request(json.dumps({"inputs": [tensor | {"data": data}]}).encode(), None, spec, OUTPUTS).x

    np.testing.assert_array_equal(read([0, 255]), np.array([[0, 255]], np.uint8))
    for data in ([-1, 0], [0, 256], [0.5, 1], [1e300, 0]):
        with pytest.raises(InputError, match="integers within the range of UINT8"):
            read(data)


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    body = json.dumps(with_tensor()).replace('"data":', '"data": [9, 9], "data":').encode()
    np.testing.assert_array_equal(parse_request(body, None, SPEC, OUTPUTS).x, [[1, 2], [3, 4]])


def test_outputs_asked_for_many_times_are_answered_once() -> None:
    assert parse(with_tensor() | {"outputs": [{"name": "logits"}] * 1000}).outputs == {"logits": False}


MANY = 2 * 10**6
START = b'{"inputs":[{"name":"x","shape":[%d,2],"datatype":"FP32","data":' % (MANY // 2)


@pytest.mark.parametrize(
    "body",
    [
        START + b"[" + b"[]," * (MANY - 1) + b"[]]}]}",
        START + b"[" + b"{}," * (MANY - 1) + b"{}]}]}",
        START + b"[" + b'"",' * (MANY - 1) + b'""]}]}',
        START + b"[" + b"null," * (MANY - 1) + b"null]}]}",
        START + b"{" + b'"":0,' * MANY + b'"":0}}]}',
        START + b'[],"parameters":{' + b'"a":[],' * MANY + b'"":[]}}]}',
        b'{"inputs":[' + b"{}," * MANY + b"{}]}",
        b'{"inputs":[' + b"[]," * MANY + b"[]]}",
        START + b'[1,1],"shape":[' + b"1," * MANY + b"1]}]}",
        START[:-8] + b'"parameters":{"binary_data_size":1},"name":"' + b"x" * MANY + b'"}]}',
        b'{"inputs":[{}],"outputs":[' + b'{"name":"logits"},' * (MANY // 4) + b'{"name":"logits"}]}',
        b'{"inputs":[{}],"id":[' + b"[]," * MANY + b"[]]}",
        b'{"inputs":[{}],"unknown":[' + b"[]," * MANY + b"[]]}",
    ],
    ids=str.split("lists objects strings nulls pairs parameters tensors inputs shape name outputs id unknown"),
)
def test_no_field_becomes_many_objects(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            parse_request(body, None, SPEC, OUTPUTS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(body)  # as Python's objects, some 16 bytes for each byte that came


@pytest.mark.parametrize("field", ["id", "outputs", "parameters"])
def test_a_field_of_many_bytes_is_refused_by_name(field: str) -> None:
    with pytest.raises(InputError, match=f"{field}.* may have at most {MAX_FIELD_BYTES} bytes"):
        parse(with_tensor() | {field: "a" * MAX_FIELD_BYTES})


def test_the_json_has_a_limit_of_its_own() -> None:
    body = json.dumps(with_binary(16)).encode()
    x = np.arange(4, dtype="<f4").tobytes()
    assert parse_request(body + x, str(len(body)), SPEC, OUTPUTS, len(body)).x.shape == (2, 2)
    with pytest.raises(RequestTooLargeError, match="send data as a binary tensor"):
        parse_request(body + x, str(len(body)), SPEC, OUTPUTS, len(body) - 1)


@pytest.mark.parametrize("number", ["1e400", "9" * 400, "9" * 5000])
@pytest.mark.parametrize(
    ("field", "message"), [("data", "the range of float64"), ("shape", "shape of"), ("size", "binary_data_size")]
)
def test_numbers_that_are_too_large_are_refused(number: str, field: str, message: str) -> None:
    values = {"data": "[1, 2]", "shape": "[1, 2]", "size": "null"} | {
        field: number if field == "size" else f"[{number}, 2]"
    }
    text = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": %(shape)s, "data": %(data)s,'
    text += ' "parameters": {"binary_data_size": %(size)s}}]}'
    with pytest.raises(InputError, match=message):
        parse_request((text % values).encode(), None, SPEC, OUTPUTS)
