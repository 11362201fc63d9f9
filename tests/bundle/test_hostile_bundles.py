"""Whatever lies in a bundle's folder: mmguard's own errors, within a second and 200 MiB."""

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from mmguard.bundle.bundle import MAX_MANIFEST_BYTES, Bundle
from mmguard.bundle.decoding import MAX_CONTAINERS, MAX_VALUES
from mmguard.bundle.file_names import BOUNDS, PROBES
from mmguard.bundle.tensors import MAX_HEADER
from mmguard.cli.audit import describe_audit
from mmguard.cli.inspect import describe_bundle
from mmguard.errors import MmguardError
from mmguard.guard import Guard
from mmguard.guard.verify import verify_bundle
from tests.bundle.hostile import Change, Victim, changes
from tests.bundles import Head, add_trigger, clean_inputs, write_tiny_bundle

SECONDS, MEMORY = 1.0, 200 * 2**20
X = np.concatenate([clean_inputs(3), add_trigger(clean_inputs(3))])
OFTEN = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=[Head.NONE, Head.SOFTMAX])
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    folder = tmp_path_factory.mktemp("hostile") / "tiny.mmguard"
    return Victim(write_tiny_bundle(folder, head=request.param))


def use(folder: Path) -> None:
    """Do with a bundle what is done with bundles; only mmguard's own errors may come."""
    with suppress(MmguardError):
        bundle = Bundle.open(folder)
        event("opened")
        steps: list[Callable[[], object]] = [
            partial(describe_bundle, bundle),
            partial(show_audit, bundle),
            bundle.manifest.to_json,
            *(bundle.report, bundle.bounds, bundle.probes, bundle.provenance),
            partial(judge, bundle),
            partial(verify_bundle, bundle),
        ]
        for step in steps:
            with suppress(MmguardError):
                step()


def show_audit(bundle: Bundle) -> None:
    """As `mmguard audit` does."""
    describe_audit(bundle.audit(), bundle.manifest.classes)


def judge(bundle: Bundle) -> None:
    """As a server does, request and scrape."""
    registry = CollectorRegistry()
    with Guard(bundle, registry=registry, threads=1) as guard:
        for x in (X.astype(bundle.manifest.input.dtype), X[:0], X[:1]):
            with suppress(MmguardError):
                guard.infer(x)
                event("judged")
    generate_latest(registry)


def once(victim: Victim, data: st.DataObject) -> None:
    change = data.draw(changes(victim))
    try:
        victim.apply(change)
        use(victim.folder)
    finally:
        victim.mend(change)


@settings(OFTEN, max_examples=150)
@given(st.data())
def test_a_hostile_bundle_gives_mmguard_s_own_errors_alone(victim: Victim, data: st.DataObject) -> None:
    once(victim, data)


@pytest.mark.heavy
@settings(OFTEN, max_examples=5_000)
@given(st.data())
def test_a_hostile_bundle_takes_a_second_and_200_mib_at_most(victim: Victim, data: st.DataObject) -> None:
    with bounded():
        once(victim, data)


FILLERS = {"lists": "[]", "numbers": "0", "empty texts": '""', "texts": f'"{"a" * 28}"', "objects": "{}"}
PLACES = ["settings", "classes", "input.low", "calibration.original_margins.sample", "null.clean_scores", "sites"]


def stuffed(victim: Victim, place: str, stuffing: str) -> bytes:
    """The manifest with another value in one place."""
    raw = copy.deepcopy(victim.raw)
    *outer, last = place.split(".")
    inside = raw
    for key in outer:
        inside = inside[key]
    inside[last] = "STUFFING"
    return json.dumps(raw).replace('"STUFFING"', stuffing).encode()


@pytest.mark.heavy
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("filler", FILLERS)
def test_the_largest_manifests_that_are_read_take_a_second_and_200_mib_at_most(
    victim: Victim, place: str, filler: str
) -> None:
    values = MAX_CONTAINERS - 500 if filler in ("lists", "objects") else MAX_VALUES - 1000
    text = stuffed(victim, place, f"[{','.join([FILLERS[filler]] * values)}]")
    assert len(text) <= MAX_MANIFEST_BYTES
    read(victim, Change(manifest=text))


@pytest.mark.heavy
@pytest.mark.parametrize(
    "text",
    [
        b"[" * MAX_MANIFEST_BYTES,
        b'{"a":' * MAX_VALUES,
        b'"' + b"a" * (MAX_MANIFEST_BYTES - 2) + b'"',
        b"9" * MAX_MANIFEST_BYTES,
        b'{"schema_version": 5' + b"0" * 4000 + b"}",
        b" " * MAX_MANIFEST_BYTES,
        b'"' + rb"\u0000" * (MAX_MANIFEST_BYTES // 6 - 1) + b'"',
    ],
    ids=["deep lists", "deep objects", "a text", "a number", "a version", "spaces", "escapes"],
)
def test_the_largest_texts_that_are_no_manifest_take_a_second_and_200_mib_at_most(victim: Victim, text: bytes) -> None:
    read(victim, Change(manifest=text))


@pytest.mark.heavy
def test_the_most_files_and_versions_that_are_read_take_a_second_and_200_mib_at_most(victim: Victim) -> None:
    files = {f"{i}": {"size": 1, "sha256": "0" * 64} for i in range(MAX_CONTAINERS - 500)}
    read(victim, Change(manifest=stuffed(victim, "files", json.dumps(files))))
    paths = {"/".join(["x" * 30] * 15 + [str(i)]): {"size": 1, "sha256": "0" * 64} for i in range(9_900)}
    read(victim, Change(manifest=stuffed(victim, "files", json.dumps(victim.raw["files"] | paths))))
    versions = {f"{i}": "1" for i in range(MAX_VALUES // 2 - 1000)}
    text = stuffed(victim, "versions", json.dumps(versions))
    victim.apply(Change(manifest=text))
    with bounded():
        assert len(Bundle.open(victim.folder).manifest.versions) == len(versions)


@pytest.mark.heavy
@pytest.mark.parametrize("name", [BOUNDS, PROBES])
def test_the_largest_headers_of_tensors_that_are_read_take_a_second_and_200_mib_at_most(
    victim: Victim, name: str
) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{i:05}": entry for i in range(60_000)}).encode()
    assert len(header) <= MAX_HEADER
    read(victim, Change({name: len(header).to_bytes(8, "little") + header}))


def read(victim: Victim, change: Change) -> None:
    """Open a changed bundle, which is refused, within the bounds."""
    try:
        victim.apply(change)
        with bounded(), pytest.raises(MmguardError):
            Bundle.open(victim.folder)
    finally:
        victim.mend(change)


@contextmanager
def bounded() -> Iterator[None]:
    """Fail where more than a second of processor time, or 200 MiB of memory, are taken."""
    reset_peak()
    before, start = memory("VmRSS"), time.process_time()
    yield
    seconds, peak = time.process_time() - start, memory("VmHWM") - before
    assert seconds <= SECONDS, f"{seconds:.2f} s of processor time"
    assert peak <= MEMORY, f"{peak / 2**20:.0f} MiB"


def reset_peak() -> None:
    """Let the system's record of this process's largest memory begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory(name: str) -> int:
    """Bytes of resident memory, `VmRSS` now or `VmHWM` at most since the record began."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
