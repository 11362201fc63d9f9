import asyncio
import gzip
import http.client
import itertools
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from mmguard.errors import OverloadError
from mmguard.guard import Guard, GuardedBatch, Policy
from mmguard.guard.serving.server import create_app
from mmguard.types import Decision
from tests.bundles import Array, Head, add_trigger, clean_inputs, write_tiny_bundle
from tests.guard.serving.servers import DEADLINE, Gate, Served, request_of, running, wait_until

INFER = "/v2/models/tiny/infer"
GUARD_OUTPUTS = (
    ("mmguard_label", "labels"),
    ("mmguard_original_label", "original_labels"),
    ("mmguard_flagged", "flagged"),
    ("mmguard_p_value", "p_values"),
    ("mmguard_margin_gap", "margin_gaps"),
)
LIMIT = 100_000
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
HALF_TRIGGERED = np.concatenate([clean_inputs(9, seed=7), add_trigger(clean_inputs(8, seed=8))])


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[Served]:
    with running(tiny_bundle, max_request_bytes=LIMIT) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{served.address}", timeout=DEADLINE) as connection:
        yield connection


@pytest.fixture
def triton_client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as connection:
        yield connection


def triton_input(x: Array, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    return tensor


def assert_same(result: triton.InferResult, expected: GuardedBatch) -> None:
    np.testing.assert_array_equal(result.as_numpy("logits"), expected.output)
    for name, field in GUARD_OUTPUTS:
        array, wanted = result.as_numpy(name), getattr(expected.decision, field)
        np.testing.assert_array_equal(array, wanted)
        assert array.dtype == wanted.dtype
    reasons = [
        str(reason, "utf-8") if isinstance(reason, bytes) else reason for reason in result.as_numpy("mmguard_reason")
    ]
    assert reasons == expected.decision.reasons.tolist()


def test_health_and_metadata(triton_client: triton.InferenceServerClient) -> None:
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("tiny")
    assert triton_client.is_model_ready("tiny", "1")
    assert not triton_client.is_model_ready("tiny", "2")
    assert not triton_client.is_model_ready("other")
    assert triton_client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = triton_client.get_model_metadata("tiny")
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("tiny", ["1"], "mmguard")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
    assert [(output["name"], output["datatype"], output["shape"]) for output in metadata["outputs"]] == [
        ("logits", "FP32", [-1, 3]),
        ("mmguard_label", "INT64", [-1]),
        ("mmguard_original_label", "INT64", [-1]),
        ("mmguard_flagged", "BOOL", [-1]),
        ("mmguard_p_value", "FP64", [-1]),
        ("mmguard_margin_gap", "FP64", [-1]),
        ("mmguard_reason", "BYTES", [-1]),
        ("mmguard_confidence", "FP64", [-1]),
    ]


@pytest.mark.parametrize("n", [1, 17])
@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_a_client_gets_what_the_guard_says(
    served: Served,
    triton_client: triton.InferenceServerClient,
    n: int,
    binary_input: bool,
    binary_output: bool,
    compression: str | None,
) -> None:
    x = HALF_TRIGGERED[-n:]
    names = ["logits", *(name for name, _ in GUARD_OUTPUTS), "mmguard_reason"]
    result = triton_client.infer(
        "tiny",
        [triton_input(x, binary_input)],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_output) for name in names],
        request_id="an id",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    expected = served.guard.infer(x)
    assert expected.decision.flagged.any()
    assert_same(result, expected)
    assert result.get_response()["id"] == "an id"


def test_a_client_that_names_no_output_gets_all_of_them(
    served: Served, triton_client: triton.InferenceServerClient
) -> None:
    result = triton_client.infer("tiny", [triton_input(HALF_TRIGGERED)], model_version="1")
    assert_same(result, served.guard.infer(HALF_TRIGGERED))
    assert result.get_output("logits")["shape"] == [17, 3]
    assert (result.get_response()["model_name"], result.get_response()["model_version"]) == ("tiny", "1")


def test_a_client_that_names_an_output_gets_it_alone(triton_client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("mmguard_label")]
    result = triton_client.infer("tiny", [triton_input(HALF_TRIGGERED)], outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["mmguard_label"]


def test_a_client_gets_the_server_s_reason_for_a_refusal(triton_client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="expected shape") as caught:
        triton_client.infer("tiny", [triton_input(HALF_TRIGGERED[:, :2])])
    assert caught.value.status() == "400"


def test_a_long_response_is_compressed_where_the_client_can_read_it(client: httpx.Client) -> None:
    request = request_of(HALF_TRIGGERED)
    assert client.post(INFER, json=request).headers["content-encoding"] == "gzip"
    plain = client.post(INFER, json=request, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers


def test_an_empty_batch_is_answered(client: httpx.Client) -> None:
    response = client.post(INFER, json=request_of(clean_inputs(0)))
    assert response.status_code == 200
    assert [output["shape"] for output in response.json()["outputs"]] == [[0, 3], *[[0]] * 7]


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"", {}, 400, "not valid JSON"),
        (b"{", {}, 400, "not valid JSON"),
        (json.dumps(request_of(clean_inputs(1)[:, :2])), {}, 400, "expected shape"),
        (json.dumps(request_of(clean_inputs(1)[0])), {}, 400, "x[None]"),
        (json.dumps(request_of(clean_inputs(1) * np.float32(np.nan))), {}, 400, "use a binary tensor"),
        (json.dumps(request_of(np.full((1, 3, 8, 8), 1e300))), {}, 400, "NaN or infinite"),
        (json.dumps(request_of(clean_inputs(1), outputs=[{"name": "y"}])), {}, 400, "unknown output name 'y'"),
        (b"{}", {"Inference-Header-Content-Length": "3"}, 400, "Inference-Header-Content-Length"),
        (b"{}", {"Content-Encoding": "br"}, 400, "Content-Encoding"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "not valid gzip"),
        (b" " * (LIMIT + 1), {}, 413, "100000 bytes"),
        (gzip.compress(b" " * (LIMIT + 1)), {"Content-Encoding": "gzip"}, 413, "100000 bytes"),
    ],
)
def test_a_malformed_request_is_refused_with_a_reason(
    client: httpx.Client, content: bytes | str, headers: dict[str, str], status: int, message: str
) -> None:
    response = client.post(INFER, content=content, headers=headers)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


def test_a_request_of_unsaid_length_is_bounded_too(client: httpx.Client) -> None:
    response = client.post(INFER, content=iter([b" " * 60_000] * 2))
    assert response.status_code == 413


def send_all_then_read(address: str, path: str, body: bytes | Iterator[bytes], headers: dict[str, str]) -> int:
    """The status that a client gets which reads only once it has sent all that it has."""
    with closing(http.client.HTTPConnection(address, timeout=DEADLINE)) as connection:
        connection.request("POST", path, body, headers, encode_chunked=True)
        return connection.getresponse().status


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}, {"Content-Encoding": "gzip", "Connection": "close"}])
@pytest.mark.parametrize(("path", "status"), [(INFER, 413), ("/v2/models/other/infer", 404), ("/v2/health/live", 405)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_refusal_reaches_a_client_that_is_still_sending(
    served: Served, path: str, status: int, headers: dict[str, str], chunked: bool
) -> None:
    body = itertools.repeat(bytes(2**16), 400) if chunked else bytes(400 * 2**16)
    more = {"Transfer-Encoding": "chunked"} if chunked else {}
    assert send_all_then_read(served.address, path, body, headers | more) == status


@pytest.mark.parametrize("options", [[], ["--header", "Expect: 100-continue"], ["--http1.0"]])
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_sees_a_refusal(served: Served, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "body").write_bytes(bytes(25 * 2**20))
    command = ["curl", "--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code}", *options]
    command += ["--data-binary", f"@{tmp_path}/body", f"http://{served.address}{INFER}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (result.stdout, result.stderr) == ("413", "")


def test_a_client_that_asks_first_is_told_before_it_sends(served: Served) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))  # until the server closes
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_a_client_that_asks_first_is_told_to_go_on(served: Served) -> None:
    body = json.dumps(request_of(clean_inputs(1))).encode()
    host, port = served.address.split(":")
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        connection.sendall(head.encode())
        assert connection.recv(2**16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")


def test_requests_sent_at_once_are_answered_in_turn(served: Served) -> None:
    body = json.dumps(request_of(clean_inputs(1))).encode()
    infer = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        connection.sendall(infer * 3 + last)
        answers = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert answers.count(b"HTTP/1.1 200 OK") == 4
    assert answers.endswith(b'{"live":true}')


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/tiny/", 404),
        ("POST", f"{INFER}/", 404),
        ("OPTIONS", INFER, 405),
        ("GET", "/v2/models/..%2Ftiny", 404),
        ("GET", "/v2/models/%00", 404),
        ("GET", f"/v2/models/{'x' * 30_000}", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/tiny/versions/2", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/tiny/versions/0/infer", 404),
        ("GET", "/v3", 404),
        ("GET", INFER, 405),
    ],
)
def test_what_is_not_there_is_said_in_json(client: httpx.Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/versions/1"])
def test_version_1_is_the_only_one(client: httpx.Client, path: str) -> None:
    assert client.get(path).json()["name"] == "tiny"
    assert client.get(f"{path}/ready").json() == {"name": "tiny", "ready": True}
    assert client.post(f"{path}/infer", json=request_of(clean_inputs(1))).status_code == 200


def test_a_row_without_a_label_is_null_in_json_and_nan_in_binary(tiny_bundle: Path) -> None:
    x = add_trigger(clean_inputs(2))
    with running(tiny_bundle, Policy(on_flag="abstain")) as server:
        answer = httpx.post(f"http://{server.address}{INFER}", json=request_of(x)).json()
        assert answer["outputs"][0]["data"] == [None] * 6
        assert answer["outputs"][1]["data"] == [-1, -1]
        with triton.InferenceServerClient(server.address) as client:
            outputs = [triton.InferRequestedOutput("logits", binary_data=False)]
            assert np.isnan(client.infer("tiny", [triton_input(x)]).as_numpy("logits")).all()
            assert np.isnan(client.infer("tiny", [triton_input(x)], outputs=outputs).as_numpy("logits")).all()


@pytest.mark.parametrize(("on_error", "status"), [("raise", 500), ("open", 200), ("closed", 200)])
def test_a_failing_network_is_answered_by_the_policy(tmp_path: Path, on_error: Any, status: int) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.mmguard", broken=True)
    with running(bundle, Policy(on_error=on_error)) as server:
        response = httpx.post(f"http://{server.address}{INFER}", json=request_of(clean_inputs(2)))
    assert response.status_code == status
    if status == 500:
        assert response.json() == {"error": "logits of the clipped network: rows 0, 1 contain NaN or infinite values"}
    else:
        assert response.json()["outputs"][4]["data"] == [None, None]


def test_probabilities_are_served_under_their_own_name(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "soft.mmguard", "soft", head=Head.SOFTMAX)
    with running(bundle) as server, triton.InferenceServerClient(server.address) as client:
        result = client.infer("soft", [triton_input(HALF_TRIGGERED)])
    np.testing.assert_allclose(result.as_numpy("probabilities").sum(axis=1), 1, rtol=1e-6)


def test_many_clients_at_once_get_their_own_answers_and_are_counted(tiny_bundle: Path) -> None:
    batches = [HALF_TRIGGERED[np.random.default_rng(seed).permutation(17)] for seed in range(40)]

    def ask(address: str, own: Sequence[Array]) -> list[triton.InferResult]:
        with triton.InferenceServerClient(address) as client:
            return [client.infer("tiny", [triton_input(x)]) for x in own]

    with running(tiny_bundle) as server, ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, server.address, batches[i::8]) for i in range(8)]
        answers = [answer.result(DEADLINE) for answer in asked]
        samples = scrape(server.metrics_address)
    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        expected = [guard.infer(x) for x in batches]
    for i, results in enumerate(answers):
        for result, wanted in zip(results, expected[i::8], strict=True):
            assert_same(result, wanted)
    assert_counted(samples, [batch.decision for batch in expected])


def assert_counted(samples: Samples, decisions: list[Decision]) -> None:
    flagged = np.concatenate([decision.flagged for decision in decisions])
    original = np.concatenate([decision.original_labels for decision in decisions])
    reasons = np.concatenate([decision.reasons for decision in decisions])
    assert samples["mmguard_inputs_total", ()] == samples["mmguard_p_value_count", ()] == len(flagged)
    assert samples["mmguard_corrections_total", ()] == flagged.sum() > 0
    for reason in ("disagreement", "confidence", "both"):
        assert samples["mmguard_detections_total", (("reason", reason),)] == (reasons == reason).sum()
    assert samples["mmguard_detections_by_label_total", (("label", "ship"),)] == (flagged & (original == 2)).sum()
    assert samples["mmguard_inference_seconds_count", (("stage", "clipped"),)] == len(decisions)


def scrape(address: str) -> Samples:
    """The samples of the one model by name and other labels."""
    text = httpx.get(f"http://{address}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.labels["model"] for sample in samples if sample.name.startswith("mmguard_")} == {"tiny"}
    return {
        (sample.name, tuple((key, value) for key, value in sample.labels.items() if key != "model")): sample.value
        for sample in samples
        if sample.name.startswith("mmguard_")
    }


def test_health_answers_while_a_batch_runs(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tiny_bundle) as server, ThreadPoolExecutor(1) as thread:
        gate = Gate(server.guard.networks.clipped)
        monkeypatch.setattr(server.guard.networks, "clipped", gate)
        answer = thread.submit(httpx.post, f"http://{server.address}{INFER}", json=request_of(clean_inputs(1)))
        assert gate.entered.wait(DEADLINE)
        assert httpx.get(f"http://{server.address}/v2/health/ready").json() == {"ready": True}
        assert not answer.done()
        gate.opened.set()
        assert answer.result(DEADLINE).status_code == 200


def test_a_stopping_server_answers_what_is_in_flight_and_takes_no_more(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_bundle) as server, ThreadPoolExecutor(1) as thread:
        gate = Gate(server.guard.networks.clipped)
        monkeypatch.setattr(server.guard.networks, "clipped", gate)
        url = f"http://{server.address}{INFER}"
        answer = thread.submit(httpx.post, url, json=request_of(clean_inputs(1)), timeout=DEADLINE)
        assert gate.entered.wait(DEADLINE)
        server.stop()
        wait_until(lambda: not accepts(server.address))
        gate.opened.set()
        assert answer.result(DEADLINE).status_code == 200


def accepts(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as connection:
        return connection.connect_ex((host, int(port))) == 0


async def ask(app: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(INFER, json=request_of(clean_inputs(1)))


def test_too_many_batches_in_flight_are_answered_503_and_when_to_come_again(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(x: Array) -> None:
        raise OverloadError("too many batches are in flight")

    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        monkeypatch.setattr(guard, "infer", refuse)
        response = asyncio.run(ask(create_app({"tiny": guard})))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {"error": "too many batches are in flight"}


def test_a_defect_is_answered_without_a_traceback(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(x: Array) -> None:
        raise ZeroDivisionError("secret")

    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        monkeypatch.setattr(guard, "infer", fail)
        response = asyncio.run(ask(create_app({"tiny": guard})))
    assert response.status_code == 500
    assert response.json() == {"error": "internal error; see the server log"}
