"""Every call of a session that runs its model is guarded, or refused by name."""

import copy
import logging
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from prometheus_client import CollectorRegistry

from mmguard.errors import CopyError, InferenceError, InputError, MmguardError, PredictorMismatchError
from mmguard.guard import Guard, Policy, wrap
from mmguard.guard.wrapping import GuardedSession
from mmguard.runtime.session import ORT_ERRORS
from mmguard.types import Decision
from tests.bundles import Array, Head, add_trigger, clean_inputs, tiny_network, write_tiny_bundle
from tests.guard.wrapping.endings import ENDINGS, check_closes, session_of, write_ended_bundle

MIXED = np.concatenate([clean_inputs(20, seed=3), add_trigger(clean_inputs(12, seed=4))])
OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}
DEADLINE = 30
"""Seconds after which what a test waits for has failed."""

RUNS = {"run", "run_async", "run_with_ort_values"}
"""What is guarded."""


def wrapped(bundle: Path, **options: Any) -> GuardedSession:
    safe = wrap(session_of(bundle), bundle, **OPTIONS | options)
    assert isinstance(safe, GuardedSession)
    return safe


def expected_of(bundle: Path, x: Array, **policy: Any) -> Array:
    with Guard(bundle, policy=Policy(**policy), **OPTIONS) as guard:
        output: Array = guard.infer(x).output
        return output


def run_async(safe: Any, names: Any, feed: Any, run_options: Any = None) -> tuple[list[Any], Any, str]:
    """What the callback is given."""
    seen, done = list[tuple[list[Any], Any, str]](), threading.Event()

    def callback(results: list[Any], user_data: Any, failure: str) -> None:
        seen.append((results, user_data, failure))
        done.set()

    safe.run_async(names, feed, callback, "mine", run_options)
    assert done.wait(DEADLINE)
    return seen[0]


CALLS: dict[str, Callable[[GuardedSession, Array], Any]] = {
    "run": lambda safe, x: safe.run(None, {"image": x})[0],
    "run by keywords": lambda safe, x: safe.run(output_names=None, input_feed={"image": x}, run_options=None)[0],
    "no names": lambda safe, x: safe.run([], {"image": x})[0],
    "a tuple of names": lambda safe, x: safe.run(("logits",), {"image": x})[0],
    "a name twice": lambda safe, x: safe.run(["logits", "logits"], {"image": x})[1],
    "run options": lambda safe, x: safe.run(None, {"image": x}, ort.RunOptions())[0],
    "a list": lambda safe, x: safe.run(None, {"image": x.tolist()})[0],
    "a list of arrays": lambda safe, x: safe.run(None, {"image": list(x)})[0],
    "a value": lambda safe, x: safe.run(None, {"image": ort.OrtValue.ortvalue_from_numpy(x)})[0],
    "not contiguous": lambda safe, x: safe.run(None, {"image": np.ascontiguousarray(x[..., ::-1])[..., ::-1]})[0],
    "run_with_ort_values": lambda safe, x: safe.run_with_ort_values(
        None, {"image": ort.OrtValue.ortvalue_from_numpy(x)}
    )[0].numpy(),
    "run_async": lambda safe, x: run_async(safe, None, {"image": x})[0][0],
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_that_runs_the_model_is_guarded(tiny_bundle: Path, call: str) -> None:
    decisions = list[Decision]()
    answer = CALLS[call](wrapped(tiny_bundle, on_decision=decisions.append), MIXED)
    np.testing.assert_array_equal(answer, expected_of(tiny_bundle, MIXED))
    (decision,) = decisions
    assert decision.flagged.any()
    assert not decision.flagged.all()


def test_no_method_of_onnx_runtime_s_session_answers_unguarded(tiny_bundle: Path) -> None:
    """Whatever the installed version has: it is guarded, known not to run the model, or refused."""
    safe, session = wrapped(tiny_bundle), session_of(tiny_bundle)
    names = {name for name in dir(session) if not name.startswith("__")}
    assert {"_sess", "io_binding", "run_with_iobinding", "run_with_ortvaluevector"} | RUNS <= names
    for name in names - RUNS - GuardedSession.forwarded:
        if name in vars(safe):
            continue  # the guarded session's own, of the same name
        with pytest.raises(
            AttributeError, match=f"'{name}' of the wrapped predictor might run the model without the guard"
        ):
            getattr(safe, name)
    assert not hasattr(safe, "run_in_a_later_version")


def test_what_is_refused_says_what_to_do(tiny_bundle: Path) -> None:
    safe = wrapped(tiny_bundle)
    for name in ("io_binding", "run_with_iobinding", "run_with_ortvaluevector"):
        with pytest.raises(MmguardError, match="use run, run_with_ort_values or run_async"):
            getattr(safe, name)
    with pytest.raises(MmguardError, match="before you wrap it"):
        safe.set_providers(["CPUExecutionProvider"])
    with pytest.raises(AttributeError, match="_sess"):
        ort.IOBinding(safe)


def test_what_tells_of_the_session_is_forwarded(tiny_bundle: Path) -> None:
    safe, session = wrapped(tiny_bundle), session_of(tiny_bundle)
    assert [node.name for node in safe.get_inputs()] == ["image"]
    assert [node.name for node in safe.get_outputs()] == ["logits"]
    assert safe.get_providers() == ["CPUExecutionProvider"]
    assert safe.get_modelmeta().graph_name == "tiny"
    for name in GuardedSession.forwarded & set(dir(session)):
        assert callable(getattr(safe, name))


@pytest.mark.parametrize("call", ["run", "run_with_ort_values"])
def test_run_options_reach_the_session(tiny_bundle: Path, call: str) -> None:
    """A run that is told to end ends in ONNX Runtime's own error, and is counted."""
    registry, ended = CollectorRegistry(), ort.RunOptions()
    ended.terminate = True
    safe = wrapped(tiny_bundle, registry=registry)
    value = ort.OrtValue.ortvalue_from_numpy(MIXED)
    with pytest.raises(ORT_ERRORS, match="terminate"):
        getattr(safe, call)(None, {"image": value}, ended)
    assert registry.get_sample_value("mmguard_errors_total", {"model": "tiny", "kind": "inference"}) == 1


def test_an_asynchronous_run_hands_on_data_and_failures(tiny_bundle: Path) -> None:
    safe, ended = wrapped(tiny_bundle), ort.RunOptions()
    ended.terminate = True
    results, user_data, failure = run_async(safe, ["logits"], {"image": MIXED})
    assert ([len(each) for each in results], user_data, failure) == ([len(MIXED)], "mine", "")
    results, user_data, failure = run_async(safe, None, {"image": MIXED}, ended)
    assert (results, user_data) == ([], "mine")
    assert "terminate" in failure
    results, _, failure = run_async(safe, None, {"image": MIXED[0]})
    assert results == []
    assert "expected shape" in failure
    with pytest.raises(InputError, match="expected exactly one input, 'image'"):
        safe.run_async(None, {"x": MIXED}, print, None)


def test_an_asynchronous_run_answers_what_it_was_given(tiny_bundle: Path) -> None:
    """Though the caller goes on to write to that array: no network sees the change."""
    safe, given = wrapped(tiny_bundle), MIXED.copy()
    seen, held, done = list[Array](), threading.Event(), threading.Event()
    safe._predictor = _Waiting(safe._predictor, held)

    def callback(results: list[Any], user_data: Any, failure: str) -> None:
        seen.extend(results)
        done.set()

    safe.run_async(None, {"image": given}, callback, None)
    given[:] = 0
    held.set()
    assert done.wait(DEADLINE)
    np.testing.assert_array_equal(seen[0], expected_of(tiny_bundle, MIXED))


class _Waiting:
    """A session whose runs wait for an event."""

    def __init__(self, session: ort.InferenceSession, event: threading.Event) -> None:
        self.get_inputs, self._run, self._event = session.get_inputs, session.run, event

    def run(self, *arguments: Any, **options: Any) -> Any:
        assert self._event.wait(DEADLINE)
        return self._run(*arguments, **options)


def test_a_callback_that_fails_is_logged(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    safe, called = wrapped(tiny_bundle), threading.Event()

    def fails(*_: Any) -> None:
        called.set()
        raise RuntimeError("the queue is full")

    with caplog.at_level(logging.ERROR, "mmguard"):
        safe.run_async(None, {"image": MIXED}, fails, None)
        assert called.wait(DEADLINE)
        safe._workers.shutdown(wait=True)
    assert "the callback of run_async failed" in caplog.text
    assert "the queue is full" in caplog.text


@pytest.mark.parametrize("end", ["softmax and label", "map"])
def test_outputs_come_as_the_session_s_in_the_order_asked_for(tmp_path: Path, end: str) -> None:
    bundle = write_ended_bundle(tmp_path / "b", ENDINGS[end])
    session, clean = session_of(bundle), MIXED[:8]
    safe = wrapped(bundle, policy=Policy(mode="shadow"))
    names = [node.name for node in session.get_outputs()][::-1]
    for asked in (None, names, names[:1]):
        for answer, own in zip(safe.run(asked, {"image": clean}), session.run(asked, {"image": clean}), strict=True):
            assert type(answer) is type(own)
            np.testing.assert_array_equal(answer, own)


def test_ort_values_of_maps_are_refused(tmp_path: Path) -> None:
    bundle = write_ended_bundle(tmp_path / "b", ENDINGS["map"])
    with pytest.raises(InputError, match=r"cannot create an OrtValue for output 'maps' of type seq\(map.*; use run"):
        wrapped(bundle).run_with_ort_values(None, {"image": ort.OrtValue.ortvalue_from_numpy(MIXED)})


def test_feeds_and_outputs_that_the_model_does_not_have_are_refused(tiny_bundle: Path) -> None:
    safe = wrapped(tiny_bundle)
    with pytest.raises(InputError, match=r"expected exactly one input, 'image', got \['x'\]"):
        safe.run(None, {"x": MIXED})
    with pytest.raises(InputError, match="expected exactly one input, 'image'"):
        safe.run(None, {"image": MIXED, "fc.bias": MIXED})
    with pytest.raises(InputError, match=r"expected output names among 'logits', got \['relu1'\]"):
        safe.run(["relu1"], {"image": MIXED})
    with pytest.raises(InputError, match="expected shape"):
        safe.run(None, {"image": MIXED[0]})
    with pytest.raises(InputError, match="expected a float32 NumPy array, got float64"):
        safe.run(None, {"image": MIXED.astype(np.float64)})
    with pytest.raises(InputError, match="rows of equal length"):
        safe.run(None, {"image": [[0.0], [0.0, 1.0]]})


def test_a_session_of_other_outputs_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "b", head=Head.SOFTMAX)
    with pytest.raises(
        PredictorMismatchError, match=r"the same outputs as the model of .*: expected logits, got probabilities"
    ):
        wrap(session_of(other), tiny_bundle, **OPTIONS)


def test_a_session_of_a_fixed_batch_takes_any(tiny_bundle: Path, tmp_path: Path) -> None:
    model = tiny_network(batch=None).model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    session = ort.InferenceSession(tmp_path / "fixed.onnx", providers=["CPUExecutionProvider"])
    safe = wrap(session, tiny_bundle, **OPTIONS)
    for n in (0, 4, 5, 32):
        (output,) = safe.run(None, {"image": MIXED[:n]}, ort.RunOptions())
        np.testing.assert_allclose(output, expected_of(tiny_bundle, MIXED[:n]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_say_that_they_cannot_be(tiny_bundle: Path, copied: Callable[[Any], Any]) -> None:
    with pytest.raises(CopyError, match=r"GuardedSession has open sessions.*call mmguard\.wrap again"):
        copied(wrapped(tiny_bundle))


def test_a_forked_process_is_told_to_wrap_its_own_session(tiny_bundle: Path) -> None:
    safe = wrapped(tiny_bundle)
    safe.run(None, {"image": MIXED})
    context = multiprocessing.get_context("fork")
    answers: Any = context.SimpleQueue()

    def child() -> None:
        try:
            safe.run(None, {"image": MIXED})
        except InferenceError as error:
            answers.put(str(error))

    process = context.Process(target=child)
    process.start()
    process.join(DEADLINE)
    alive = process.is_alive()
    process.kill()
    assert not alive
    assert "open and wrap a session in each worker" in answers.get()


def test_a_guarded_session_closes_its_guard_and_leaves_the_session_open(tiny_bundle: Path) -> None:
    session = session_of(tiny_bundle)
    safe = wrap(session, tiny_bundle, **OPTIONS)
    check_closes(safe, lambda: safe.run(None, {"image": MIXED}))
    with pytest.raises(InferenceError, match="the guard is closed"):
        safe.run_async(None, {"image": MIXED}, print, None)
    assert len(session.run(None, {"image": MIXED})[0]) == len(MIXED)


def test_closing_waits_for_asynchronous_runs(tiny_bundle: Path) -> None:
    seen, held = list[tuple[list[Any], str]](), threading.Event()
    with wrapped(tiny_bundle) as safe:
        safe._predictor = _Waiting(safe._predictor, held)
        for _ in range(40):  # more than there are workers
            safe.run_async(None, {"image": MIXED}, lambda results, _, failure: seen.append((results, failure)), None)
        threading.Timer(0.1, held.set).start()
    assert [failure for _, failure in seen] == [""] * 40
    assert {len(results) for results, _ in seen} == {1}


def test_a_callback_may_close_its_session(tiny_bundle: Path) -> None:
    safe, closed = wrapped(tiny_bundle), threading.Event()

    def callback(results: list[Any], user_data: Any, failure: str) -> None:
        safe.close()
        closed.set()

    safe.run_async(None, {"image": MIXED}, callback, None)
    assert closed.wait(DEADLINE)
    with pytest.raises(InferenceError, match="the guard is closed"):
        safe.run(None, {"image": MIXED})
