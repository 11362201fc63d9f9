"""What a server refuses, by which status, and that it counts it."""

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from mmguard.guard import Guard, Policy
from mmguard.guard.policy import OnError
from mmguard.guard.serving import app as app_module
from mmguard.guard.serving import body_reader as body_reader_module
from mmguard.guard.serving import options as options_module
from mmguard.guard.serving.memory_budget import RESPONSE_CLASS_BYTES, RESPONSE_ROW_BYTES
from mmguard.guard.serving.options import RequestLimits
from mmguard.guard.serving.protocol import GUARD_OUTPUTS, encode_response
from mmguard.guard.serving.request import InferenceRequest
from mmguard.guard.serving.server import create_app
from tests.bundles import Array, clean_inputs
from tests.guard.serving.servers import DEADLINE, Gate, Served, request_of, running, wait_until

INFER = "/v2/models/tiny/infer"
X = clean_inputs(4)
NAN, HUGE = X.copy(), X.copy()
HELD = X.nbytes + len(X) * (RESPONSE_ROW_BYTES + 3 * RESPONSE_CLASS_BYTES)
"""What a request of X and its answer take."""
NAN[2] = np.nan
HUGE[2] = 1e38
"""Finite, and too large for the network."""


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def counted(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"mmguard_{name}", {"model": "tiny"} | labels) or 0


def binary_of(x: Array) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32"}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": x.nbytes}}]}).encode()
    return head + x.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def body_of(x: Array, form: str) -> tuple[bytes, dict[str, str]]:
    """The request and its headers; in JSON, which has no NaN, a number that float32 does not hold."""
    if form == "json":
        return json.dumps(request_of(np.where(np.isnan(x), 1e300, x.astype(np.float64)))).encode(), {}
    body, headers = binary_of(x)
    if form == "gzip":
        return gzip.compress(body), headers | {"Content-Encoding": "gzip"}
    return body, headers


def client_of(guard: Guard, **limits: int) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app({"tiny": guard}, RequestLimits(**limits)), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def post(guard: Guard, content: bytes | str, headers: dict[str, str], **limits: int) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client_of(guard, **limits) as client:
            return await client.post(INFER, content=content, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("form", ["json", "binary", "gzip"])
@pytest.mark.parametrize(("x", "status", "cause"), [(NAN, 400, "input"), (HUGE, 422, "inference")], ids=["nan", "huge"])
def test_a_row_that_cannot_be_judged_is_the_client_s_fault_or_the_policy_s(
    tiny_bundle: Path, registry: CollectorRegistry, form: str, x: Array, status: int, cause: str
) -> None:
    with Guard(tiny_bundle, registry=registry, threads=1) as guard:
        response = post(guard, *body_of(x, form))
    assert response.status_code == status
    assert "row 2 contains NaN or infinite values" in response.json()["error"]
    assert counted(registry, "errors_total", kind=cause) == 1
    choices: tuple[OnError, ...] = ("open", "closed")
    for on_error in choices:
        own, policy = CollectorRegistry(), Policy(on_error=on_error)
        with Guard(tiny_bundle, registry=own, policy=policy, threads=1) as guard:
            response = post(guard, *body_of(x, form))
        assert response.status_code == 200
        answers = {output["name"]: output["data"] for output in response.json()["outputs"]}
        assert [reason == "untested" for reason in answers["mmguard_reason"]] == [False, False, True, False]
        assert answers["mmguard_label"][2] == -1
        assert answers["logits"][6:9] == [None] * 3
        assert (counted(own, "inputs_total"), counted(own, "untested_total", cause=cause)) == (3, 1)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (json.dumps(request_of(X[:, :2])), {}, 400),
        (json.dumps(request_of(X[0])), {}, 400),
        (b"{}", {"Content-Encoding": "gzip"}, 400),
        (b" " * 100_001, {}, 413),
        (gzip.compress(b" " * 100_001), {"Content-Encoding": "gzip"}, 413),
    ],
    ids=["no JSON", "shape", "no batch", "no gzip", "long", "long once decompressed"],
)
def test_a_request_that_never_reaches_the_guard_is_counted(
    tiny_bundle: Path, registry: CollectorRegistry, content: bytes | str, headers: dict[str, str], status: int
) -> None:
    with Guard(tiny_bundle, registry=registry, threads=1) as guard:
        assert post(guard, content, headers, max_request_bytes=100_000).status_code == status
    assert counted(registry, "errors_total", kind="input") == 1
    assert counted(registry, "inputs_total") == 0


def test_requests_together_hold_no_more_than_there_is_room_for(
    tiny_bundle: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, headers = binary_of(X)

    async def ask_beside_another(guard: Guard, gate: Gate) -> list[httpx.Response]:
        async with client_of(guard, max_buffered_bytes=int(1.5 * HELD)) as client:
            first = asyncio.create_task(client.post(INFER, content=body, headers=headers))
            await asyncio.to_thread(gate.entered.wait, DEADLINE)
            second = await client.post(INFER, content=body, headers=headers)
            gate.opened.set()
            return [await first, second, *[await client.post(INFER, content=body, headers=headers) for _ in range(3)]]

    with Guard(tiny_bundle, registry=registry, threads=1) as guard:
        gate = Gate(guard.networks.clipped)
        monkeypatch.setattr(guard.networks, "clipped", gate)
        responses = asyncio.run(ask_beside_another(guard, gate))
    assert [response.status_code for response in responses] == [200, 503, 200, 200, 200]
    assert responses[1].headers["retry-after"] == "1"
    assert "out of memory for requests" in responses[1].json()["error"]
    assert counted(registry, "errors_total", kind="overload") == 1


def test_what_a_body_decompresses_to_takes_room_too(tiny_bundle: Path) -> None:
    body, headers = binary_of(np.repeat(X, 10, axis=0) * 0)
    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        response = post(
            guard, gzip.compress(body), headers | {"Content-Encoding": "gzip"}, max_buffered_bytes=len(body) // 2
        )
    assert response.status_code == 413
    assert "split the batch" in response.json()["error"]


def test_there_is_room_for_some_of_the_largest_requests(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "MAX_BUFFERED_BYTES", 1000)
    body, headers = binary_of(X)
    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        assert post(guard, body, headers, max_request_bytes=len(body)).status_code == 200


@pytest.mark.parametrize("binary", [False, True])
def test_an_answer_takes_no_more_than_the_room_that_was_made_for_it(tiny_bundle: Path, binary: bool) -> None:
    x = np.random.default_rng(0).random((5000, 3, 8, 8), dtype=np.float32)
    asked = InferenceRequest(None, x, dict.fromkeys(("logits", *GUARD_OUTPUTS), binary))
    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        guard(x[:1])
        tracemalloc.start()
        try:
            encode_response("tiny", asked, app_module._outputs(guard.infer(x)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1.1 * len(x) * (RESPONSE_ROW_BYTES + 3 * RESPONSE_CLASS_BYTES)


def test_a_request_waits_for_its_turn_and_is_refused_after_a_while(
    tiny_bundle: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MAX_CONCURRENT", 2)

    async def ask_beside_two(guard: Guard, gate: Gate) -> list[httpx.Response]:
        async with client_of(guard) as client:
            two = [asyncio.create_task(client.post(INFER, json=request_of(X))) for _ in range(2)]
            await asyncio.to_thread(gate.entered.wait, DEADLINE)
            monkeypatch.setattr(app_module, "MAX_WAIT", 0.1)
            refused = await client.post(INFER, json=request_of(X))
            monkeypatch.setattr(app_module, "MAX_WAIT", DEADLINE)
            third = asyncio.create_task(client.post(INFER, json=request_of(X)))
            await asyncio.sleep(0.1)
            gate.opened.set()
            return [refused, await third, *[await each for each in two]]

    with Guard(tiny_bundle, registry=registry, threads=1) as guard:
        gate = Gate(guard.networks.clipped)
        monkeypatch.setattr(guard.networks, "clipped", gate)
        responses = asyncio.run(ask_beside_two(guard, gate))
    assert [response.status_code for response in responses] == [503, 200, 200, 200]
    assert counted(registry, "errors_total", kind="overload") == 1


def sent_slowly(guard: Guard, pieces: list[bytes], pause: float) -> httpx.Response:
    async def drip() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(pause)

    async def ask() -> httpx.Response:
        async with client_of(guard) as client:
            return await client.post(INFER, content=drip(), headers=binary_of(X)[1])

    return asyncio.run(ask())


def test_a_body_that_comes_too_slowly_is_refused_and_one_that_is_long_is_waited_for(
    tiny_bundle: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, _ = binary_of(X)
    pieces = [body[i : i + 200] for i in range(0, len(body), 200)]
    monkeypatch.setattr(body_reader_module, "TIMEOUT_SECONDS", 0.3)
    with Guard(tiny_bundle, registry=registry, threads=1) as guard:
        monkeypatch.setattr(body_reader_module, "MIN_BYTES_PER_SECOND", 10**6)
        assert sent_slowly(guard, pieces, 0.05).status_code == 408
        assert counted(registry, "errors_total", kind="input") == 1
        monkeypatch.setattr(body_reader_module, "MIN_BYTES_PER_SECOND", 200)
        assert sent_slowly(guard, pieces, 0.05).status_code == 200


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[Served]:
    with running(tiny_bundle) as server:
        yield server


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/ready"]
)
def test_head_is_get_without_a_body(served: Served, path: str) -> None:
    with httpx.Client(base_url=f"http://{served.address}") as client:
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
        assert client.head(INFER).status_code == 405


@pytest.mark.parametrize("on_error", ["open", "raise"])
def test_of_many_connections_whose_network_hangs_each_is_answered_by_the_policy_and_none_once_it_answers_again(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, on_error: Any
) -> None:
    clients = 100  # more than batches may be in flight
    with (
        running(tiny_bundle, Policy(on_error=on_error, timeout=0.05)) as server,
        ThreadPoolExecutor(clients) as threads,
        httpx.Client(
            base_url=f"http://{server.address}", timeout=DEADLINE, limits=httpx.Limits(max_connections=clients)
        ) as client,
    ):
        gate = Gate(server.guard.networks.clipped)
        monkeypatch.setattr(server.guard.networks, "clipped", gate)
        answers = list(threads.map(lambda _: client.post(INFER, json=request_of(X)), range(clients)))
        gate.opened.set()
        wait_until(lambda: not server.guard.networks.lanes._late)
        server.guard.policy = Policy(on_error=on_error, timeout=DEADLINE)  # a busy machine may be late by 0.05 s
        again = list(threads.map(lambda _: client.post(INFER, json=request_of(X)), range(clients)))
    assert {answer.status_code for answer in again} == {200}
    assert all("untested" not in answer.text for answer in again)
    assert {answer.status_code for answer in answers} == {500 if on_error == "raise" else 200}
    assert all(answer.text.count("untested") == (len(X) if on_error == "open" else 0) for answer in answers)
