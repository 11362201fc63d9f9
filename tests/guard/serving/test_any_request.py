"""Whatever a client sends, the server answers by its protocol, soon and from little memory."""

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmguard.guard import Guard
from mmguard.guard.serving.options import MAX_JSON_BYTES, RequestLimits
from mmguard.guard.serving.server import create_app
from tests.bundles import clean_inputs

INFER = "/v2/models/tiny/infer"
LIMIT = 32 * 2**20
STATUSES = {200, 400, 404, 405, 413}
MEMORY = 200 * 2**20
SECONDS = 1
"""Of processor time, so that it holds beside other work too."""
X = clean_inputs(2)
NAMES = ("logits", "mmguard_label", "mmguard_original_label", "mmguard_flagged", "mmguard_p_value", "mmguard_reason")
FIELDS = (
    "id",
    "parameters",
    "outputs",
    "inputs",
    "name",
    "shape",
    "datatype",
    "data",
    "binary_data_size",
    "classification",
)
FILLERS = (
    b"[],",
    b"{},",
    b'"",',
    b"1,",
    b"1e9,",
    b"null,",
    b"[",
    b"[[",
    b'{"a":',
    b'"":0,',
    b" ",
    b"1",
    b"\\u0000",
    b"\x00",
)
PLACES = (
    b'{"inputs":[{"name":"image","shape":[2,3,8,8],"datatype":"FP32","data":[%s]}]}',
    b'{"inputs":[{"name":"image","datatype":"FP32","data":[1],"shape":[%s]}]}',
    b'{"inputs":[{"name":"image","datatype":"FP32","data":{%s}}]}',
    b'{"inputs":[%s]}',
    b'{"id":"%s"}',
    b'{"inputs":[{}],"outputs":[%s]}',
    b'{"inputs":[{}],"parameters":{%s}}',
    b'{"other":[%s]}',
    b"%s",
)

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
}


@dataclass(frozen=True)
class Sent:
    """A request as the server's socket would give it to the application."""

    body: bytes
    headers: dict[str, str]
    method: str = "POST"
    path: str = INFER
    pieces: int = 1


# Finite numbers so large that the network itself overflows are left out: the request is well formed then.
NUMBERS = st.one_of(
    st.integers(-1000, 1000),
    st.floats(-1e4, 1e4),
    st.sampled_from([1e300, -1e300, 5e-324, -0.0, 2**63, -(2**63), 10**25 * 10**25, 10**400]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.sampled_from(FIELDS + NAMES))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner),
    max_leaves=12,
)


def valid(binary: bool, outputs: bool) -> tuple[dict[str, Any], bytes]:
    """A request that the model takes, and the bytes that follow it."""
    tensor: dict[str, Any] = {"name": "image", "shape": list(X.shape), "datatype": "FP32"}
    tensor |= {"parameters": {"binary_data_size": X.nbytes}} if binary else {"data": X.tolist()}
    asked = {"outputs": [{"name": name, "parameters": {"binary_data": binary}} for name in NAMES]} if outputs else {}
    return {"id": "1", "inputs": [tensor], **asked}, X.tobytes() if binary else b""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values within, but for most of a list's."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    if isinstance(value, list):
        for i in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from places(value[i], (*path, i))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy in which another value stands at a path."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@st.composite
def near_valid(draw: st.DrawFn) -> Sent:
    """A valid request with other values in some of its fields, or with other bytes in some places."""
    request, tail = valid(draw(st.booleans()), draw(st.booleans()))
    faults = draw(st.sets(st.sampled_from(["field", "field", "tail", "bytes", "length", "header"]), max_size=2))
    if "field" in faults:
        request = changed(request, draw(st.sampled_from(list(places(request)))), draw(VALUES))
    head = json.dumps(request).encode()
    length, is_binary = len(head), bool(tail)
    if "tail" in faults:
        tail = draw(st.sampled_from([tail[:-1], tail + b"\x00", tail[:4] * 3, b""]) | st.binary(max_size=20))
    if "bytes" in faults:
        at = draw(st.integers(0, len(head)))
        head = head[:at] + draw(st.binary(max_size=4)) + head[at + draw(st.integers(0, 4)) :]
    if "length" in faults:
        length += draw(st.sampled_from([1, -1, 10**6]))
    if "header" in faults:
        is_binary = not is_binary
    return Sent(head + tail, {"Inference-Header-Content-Length": str(length)} if is_binary else {})


@st.composite
def filled(draw: st.DrawFn) -> Sent:
    """A small body, once compressed, that becomes as much as the limit, and more, of one thing over and over."""
    filler, place = draw(st.sampled_from(FILLERS)), draw(st.sampled_from(PLACES))
    size = draw(st.sampled_from([10**4, 10**6, MAX_JSON_BYTES - 500, MAX_JSON_BYTES + 500, LIMIT + 1]))
    many = filler * (size // len(filler))
    body = place % (many.removesuffix(b",") if draw(st.booleans()) else many)
    header = draw(st.sampled_from([{}, {"Inference-Header-Content-Length": str(len(body))}]))
    return Sent(gzip.compress(body, 1), {"Content-Encoding": "gzip"} | header)


@st.composite
def encoded(draw: st.DrawFn, requests: st.SearchStrategy[Sent]) -> Sent:
    """Compressed, as its headers say or otherwise, and cut, or with other headers."""
    sent = draw(requests)
    right, compress = draw(st.sampled_from(list(COMPRESSIONS.items())))
    body = compress(sent.body)
    body = draw(st.sampled_from([body, body, body, body[: len(body) // 2], body * 2, body + b"\x00"]))
    encodings = st.sampled_from(["gzip", "deflate", "identity", "br", "gzip, gzip", "GZIP ", ""])
    headers = sent.headers | {"Content-Encoding": draw(st.just(right) | encodings)}
    any_text = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12)
    numbers = st.integers(-1, 10**25).map(str)
    for name in ("Inference-Header-Content-Length", "Content-Length", "Content-Type", "Expect"):
        if draw(st.integers(0, 7)) == 0:
            headers[name] = draw(numbers | any_text | st.sampled_from(["100-continue", "9" * 5000]))
    return replace(sent, body=body, headers=headers, pieces=draw(st.integers(1, 3)))


@st.composite
def elsewhere(draw: st.DrawFn) -> Sent:
    """To other paths, by other methods."""
    known = (
        "/v2",
        "/v2/health/live",
        "/v2/models/tiny",
        f"{INFER}/",
        "/v2/models//infer",
        "/v2/models/tiny/versions/1/infer",
    )
    path = draw(st.sampled_from(known) | st.text(max_size=10).map("/v2/models/{}/infer".format) | st.text(max_size=10))
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"]))
    return Sent(draw(st.binary(max_size=10)), {}, method, f"/{path.lstrip('/')}")


def some(weights: dict[str, int]) -> st.SearchStrategy[Sent]:
    """Requests of each kind, as often as the weights say."""
    kinds = {
        "near": near_valid(),
        "encoded": encoded(near_valid() | st.builds(Sent, st.binary(max_size=50), st.just({}))),
        "elsewhere": elsewhere(),
        "filled": filled(),
    }
    often = [kind for kind, weight in weights.items() for _ in range(weight)]
    return st.sampled_from(often).flatmap(kinds.__getitem__)


class Client:
    """Sends requests to the application, without sockets."""

    def __init__(self, app: Any, runner: asyncio.Runner) -> None:
        self._app, self._runner = app, runner
        self.statuses: Counter[int] = Counter()

    def ask(self, sent: Sent) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of the answer."""
        return self._runner.run(self._ask(sent))

    async def _ask(self, sent: Sent) -> tuple[int, dict[bytes, bytes], bytes]:
        step = -(-len(sent.body) // sent.pieces) or 1
        pieces = [sent.body[i : i + step] for i in range(0, len(sent.body), step)] or [b""]
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        messages[-1]["more_body"] = False
        answers: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            answers.append(message)

        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.headers.items()]
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": sent.method,
            "path": sent.path,
            "headers": headers,
        }
        scope |= {"scheme": "http", "server": ("x", 80), "client": ("y", 1), "query_string": b"", "root_path": ""}
        await self._app(scope, receive, send)
        start, *parts = answers
        return start["status"], dict(start["headers"]), b"".join(part.get("body", b"") for part in parts)

    def check(self, sent: Sent) -> None:
        """Ask, and hold the answer to what every answer must be."""
        tracemalloc.start()
        try:
            start = time.process_time()
            status, headers, body = self.ask(sent)
            took = time.process_time() - start
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert took < SECONDS
        assert peak < MEMORY
        assert status in STATUSES
        head = body[: int(headers.get(b"inference-header-content-length", len(body)))]
        answer = json.loads(head)
        assert status == 200 or (list(answer) == ["error"] and 0 < len(answer["error"]) < 1000)
        self.statuses[status] += 1


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[Client]:
    with Guard(tiny_bundle, registry=None, threads=1) as guard, asyncio.Runner() as runner:
        yield Client(create_app({"tiny": guard}, RequestLimits(LIMIT)), runner)


UNTIMED = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True)
WEIGHTS = {"near": 45, "encoded": 35, "elsewhere": 16, "filled": 4}


@settings(UNTIMED, max_examples=200)
@given(sent=some(WEIGHTS))
def test_any_request_gets_an_answer_of_the_protocol(client: Client, sent: Sent) -> None:
    client.check(sent)


@pytest.mark.heavy
def test_any_of_many_requests_gets_an_answer_of_the_protocol(client: Client) -> None:
    @settings(UNTIMED, max_examples=10_000)
    @given(sent=some(WEIGHTS))
    def check(sent: Sent) -> None:
        client.check(sent)

    check()
    assert set(client.statuses) == STATUSES
    assert client.statuses[200] > 500


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("filler", FILLERS)
def test_a_body_of_one_thing_over_and_over_is_refused(client: Client, filler: bytes, place: bytes) -> None:
    size = 2 * 10**6 if filler != b"[" else 10**5
    body = place % (filler * (size // len(filler))).removesuffix(b",")
    status, _, _ = client.ask(Sent(body, {}))
    assert status == 400


def test_what_the_examples_start_from_is_answered(client: Client) -> None:
    for binary in (False, True):
        request, tail = valid(binary, True)
        head = json.dumps(request).encode()
        sent = Sent(head + tail, {"Inference-Header-Content-Length": str(len(head))} if binary else {})
        status, headers, body = client.ask(sent)
        length = int(headers.get(b"inference-header-content-length", len(body)))
        assert status == 200
        assert [output["name"] for output in json.loads(body[:length])["outputs"]] == list(NAMES)
    assert np.isfinite(X).all()
