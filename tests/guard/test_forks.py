"""A guard in a process that was forked after it was opened, as `gunicorn --preload` and `multiprocessing` do.

Each case runs in its own process, because pytest's has other threads.
"""

import copy
import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from mmguard.bundle.bundle import Bundle
from mmguard.errors import CopyError, MmguardError, ReplacedBundleError, TamperedBundleError
from mmguard.guard import Guard, Policy
from tests.bundles import add_trigger, clean_inputs, write_tiny_bundle
from tests.guard.serving.servers import DEADLINE

X = np.concatenate([clean_inputs(4, seed=3), add_trigger(clean_inputs(4, seed=4))])
SCRIPT = """
import json, os, sys, threading, time
import numpy as np
from prometheus_client import REGISTRY
import mmguard
from mmguard.guard.forks import COUNTING

def tell(**facts):
    print(json.dumps(facts), flush=True)

def fork(child):
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)
    for _ in range(DEADLINE * 10):
        if (ended := os.waitpid(pid, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(ended[1])
        time.sleep(0.1)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"

def answer():
    decision = guard(x)
    tell(p=decision.p_values.tolist(), labels=decision.labels.tolist(), reasons=decision.reasons.tolist(),
         counted=REGISTRY.get_sample_value("mmguard_inputs_total", {"model": "tiny"}))

bundle, x = sys.argv[1], np.load(sys.argv[2])
"""


def run_script(folder: Path, bundle: Path | str, body: str) -> list[dict[str, Any]]:
    """Run the script with this body in its own process; return the facts that it prints."""
    np.save(folder / "x.npy", X)
    script = SCRIPT.replace("DEADLINE", str(DEADLINE)) + textwrap.dedent(body)
    # A forked process that exits waits forever for a thread of ONNX Runtime's telemetry (README.md).
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, str(bundle)]
    done = subprocess.run(
        [*command, str(folder / "x.npy")],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_forked_guard_answers_as_its_parent_in_child_and_grandchild_and_lets_nothing_pass_untested(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    os.symlink(tiny_bundle, tmp_path / "relative.mmguard")
    body = """
        policy = mmguard.Policy(on_error="open", timeout=0.05)
        guard = mmguard.Guard(bundle, threads=2, policy=policy)
        answer()

        def child():
            os.chdir("/")
            answer()
            tell(grandchild=fork(answer))

        tell(child=fork(child))
        answer()
    """
    parent, child, grandchild, ended, child_ended, again = run_script(tmp_path, "relative.mmguard", body)
    assert (ended, child_ended) == ({"grandchild": 0}, {"child": 0})
    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        expected = guard(X)
    for told, calls in ((parent, 1), (child, 2), (grandchild, 3), (again, 2)):
        np.testing.assert_allclose(told["p"], expected.p_values, rtol=1e-4)
        assert told["labels"] == expected.labels.tolist()
        assert told["reasons"] == expected.reasons.tolist()
        assert told["counted"] == calls * len(X)


def test_locks_that_other_threads_hold_when_the_process_forks_do_not_hang_the_child(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    body = """
        guard = mmguard.Guard(bundle, threads=2)
        answer()
        held, free = threading.Event(), threading.Event()

        def hold():
            locks = [guard.networks.lanes._changed, *(each._opening for each in guard.networks._sessions.values())]
            for lock in locks:
                lock.acquire()
            held.set()
            free.wait()
            for lock in locks:
                lock.release()

        def count():
            with COUNTING:
                counting.set()
                time.sleep(0.5)

        counting = threading.Event()
        threads = [threading.Thread(target=hold), threading.Thread(target=count)]
        for thread in threads:
            thread.start()
        held.wait()
        counting.wait()
        tell(child=fork(answer))
        free.set()
        threads[0].join()
        answer()
    """
    parent, child, ended, again = run_script(tmp_path, tiny_bundle, body)
    assert ended == {"child": 0}
    assert child["p"] == parent["p"] == again["p"]


def test_guards_busy_in_many_threads_while_the_process_forks_do_not_hang_the_children(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    body = """
        guard = mmguard.Guard(bundle, threads=2)
        stop = threading.Event()

        def call():
            while not stop.is_set():
                guard(x)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        tell(children=[fork(lambda: guard(x)) for _ in range(3)])
        stop.set()
    """
    assert run_script(tmp_path, tiny_bundle, body) == [{"children": [0] * 3}]


def test_a_bundle_that_was_replaced_since_is_refused_in_the_child_and_a_closed_guard_stays_closed(
    tmp_path: Path,
) -> None:
    write_tiny_bundle(tmp_path / "b")
    write_tiny_bundle(tmp_path / "other", seed=1)
    body = """
        guard = mmguard.Guard(bundle, threads=1)
        closed = mmguard.Guard(bundle, threads=1, registry=None)
        closed.close()
        os.rename(bundle, bundle + ".old")
        os.rename("other", bundle)

        def refused():
            try:
                guard(x)
            except Exception as error:
                tell(error=type(error).__name__, said=str(error))

        tell(child=fork(refused))
        os.rename(bundle, "other")
        os.rename(bundle + ".old", bundle)

        def shut():
            try:
                closed(x)
            except Exception as error:
                tell(error=type(error).__name__, said=str(error))

        fork(shut)
        fork(answer)
    """
    refused, ended, shut, answered = run_script(tmp_path, tmp_path / "b", body)
    assert refused["error"] == "TamperedBundleError"
    assert "was replaced after the parent process opened it" in refused["said"]
    assert ended == {"child": 0}
    assert shut == {"error": "InferenceError", "said": "the guard is closed; open a new guard"}
    assert len(answered["p"]) == len(X)


def test_a_bundle_that_is_replaced_while_a_child_opens_it_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both match the manifest's names and shapes, so only their folders tell them apart."""
    bundle, other = write_tiny_bundle(tmp_path / "b"), write_tiny_bundle(tmp_path / "other", seed=1)
    registry, failed = CollectorRegistry(), {"model": "tiny", "kind": "inference"}
    with Guard(bundle, registry=registry, threads=1, policy=Policy(on_error="open")) as guard:
        for session in guard.networks._sessions.values():
            session.reset_after_fork()
        checked = Bundle.open

        def replaced_after(path: Path) -> Bundle:
            found = checked(path)
            if other.exists():
                bundle.rename(tmp_path / "old")
                other.rename(bundle)
            return found

        monkeypatch.setattr(Bundle, "open", replaced_after)
        with pytest.raises(ReplacedBundleError):
            guard(X)
        with pytest.raises(TamperedBundleError, match="was replaced after the parent"):
            guard(X)
        assert registry.get_sample_value("mmguard_errors_total", failed) == 2


def test_networks_are_opened_again_before_the_first_batch_is_timed(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        sessions, start = guard.networks._sessions, guard.networks.lanes.start
        for session in sessions.values():
            session.reset_after_fork()
        opened = list[bool]()

        def record(job: Callable[[], Any], what: str) -> Any:
            opened.extend(session._session is not None for session in sessions.values())
            return start(job, what)

        monkeypatch.setattr(guard.networks.lanes, "start", record)
        guard(X)
    assert opened == [True, True]


@pytest.mark.parametrize("do", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_guard_cannot_be_copied_and_says_what_to_do(tiny_bundle: Path, do: Callable[[Any], Any]) -> None:
    with Guard(tiny_bundle, registry=None, threads=1) as guard:
        with pytest.raises(CopyError, match=r"pass the bundle's path .*mmguard\.Guard\('.*tiny\.mmguard'\)") as caught:
            do(guard)
        assert isinstance(caught.value, (MmguardError, TypeError))
        assert len(guard(X)) == len(X)
