"""A guard with a screen: the clipped network runs on what is held back, and all else is as without the screen."""

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from mmguard import Decision, wrap
from mmguard.detection.margins import OriginalReadings
from mmguard.detection.screen import Screen
from mmguard.errors import InferenceError, OptionError
from mmguard.guard import Guard, Policy
from mmguard.guard.sessions import NetworkOutput
from mmguard.types import Reason
from tests.bundles import Array, add_trigger, clean_inputs
from tests.guard.wrapping.endings import LOGITS, callable_of, session_of, write_ended_bundle, write_evidence_bundle

X = np.concatenate([clean_inputs(120, seed=3), add_trigger(clean_inputs(40, seed=4))])
OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}
FIELDS = ("labels", "flagged", "corrected", "reasons")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evidence_bundle(tmp_path_factory.mktemp("screened") / "b")


def rows_clipped(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """The batches that the clipped network will run on."""
    seen: list[Array] = []
    network = guard.networks.clipped

    def spy(x: Array) -> NetworkOutput:
        seen.append(x.copy())
        return network(x)

    monkeypatch.setattr(guard.networks, "clipped", spy)
    return seen


def held_back(guard: Guard, x: Array, share: float) -> Any:
    """Which inputs the screen must hold back, from the original network's runtime graph."""
    null = guard.bundle.manifest.null
    assert null is not None
    screen = Screen.of(null.test(), share)
    assert screen is not None
    output = guard.networks.original(x)
    return screen.held_back(screen.p_values(OriginalReadings(output.logits, output.activations)))


def test_the_clipped_network_runs_on_what_is_held_back_and_on_nothing_else(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Guard(bundle, policy=Policy(screen=0.1, on_flag="abstain"), **OPTIONS) as guard:
        expected = held_back(guard, X, 0.1)
        seen = rows_clipped(guard, monkeypatch)
        decision = guard(X)
    assert 0 < expected.sum() < len(X)
    np.testing.assert_array_equal(seen[0], X[expected])
    np.testing.assert_array_equal(decision.clipped_labels == -1, ~expected)
    np.testing.assert_array_equal(np.isnan(decision.margin_gaps), ~expected)
    assert decision.flagged[120:].mean() > 0.9, "the triggers are held back"


def test_what_is_held_back_gets_the_decision_of_a_guard_without_a_screen(bundle: Path) -> None:
    with Guard(bundle, policy=Policy(screen=0), **OPTIONS) as guard:
        full = guard.infer(X)
        expected = held_back(guard, X, 0.1)
    with Guard(bundle, policy=Policy(screen=0.1), **OPTIONS) as guard:
        screened = guard.infer(X)
    for name in FIELDS:
        np.testing.assert_array_equal(
            getattr(screened.decision, name)[expected], getattr(full.decision, name)[expected], err_msg=name
        )
    # float32 logits of batches of different sizes
    np.testing.assert_allclose(
        screened.decision.p_values[expected], full.decision.p_values[expected], rtol=1e-3, atol=1e-12
    )
    np.testing.assert_allclose(screened.output[expected], full.output[expected], rtol=1e-4, atol=1e-5)


def test_what_passes_gets_the_original_s_answer_and_the_p_value_of_the_screen(bundle: Path) -> None:
    with Guard(bundle, policy=Policy(screen=0.1), **OPTIONS) as guard:
        passed, original = ~held_back(guard, X, 0.1), guard.networks.original(X)
        result = guard.infer(X)
    decision = result.decision
    assert not decision.flagged[passed].any()
    assert set(decision.reasons[passed]) == {Reason.NONE}
    assert (decision.p_values[passed] > 0.1).all()
    np.testing.assert_array_equal(decision.labels[passed], original.logits.argmax(axis=1)[passed])
    np.testing.assert_array_equal(result.output[passed], original.output[passed])


def test_a_batch_that_passes_never_reaches_the_clipped_network(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Guard(bundle, policy=Policy(screen=0.1), **OPTIONS) as guard:
        clean = X[~held_back(guard, X, 0.1)]
        seen = rows_clipped(guard, monkeypatch)
        decision = guard(clean)
        assert guard(X[:0]).labels.shape == (0,)
    assert not seen
    assert not decision.flagged.any()


def test_no_two_arrays_of_a_decision_share_memory(bundle: Path) -> None:
    with Guard(bundle, policy=Policy(screen=0.1), **OPTIONS) as guard:
        clean = X[~held_back(guard, X, 0.1)]
        for x in (X, clean):
            arrays = [getattr(guard(x), name) for name in Decision.__dataclass_fields__]
            shared = [np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i]]
            assert not any(shared)


@pytest.mark.parametrize("kind", ["session", "callable"])
def test_a_wrapped_predictor_is_screened_by_the_bundle_s_original(bundle: Path, kind: str) -> None:
    with Guard(bundle, policy=Policy(screen=0.1), **OPTIONS) as guard:
        expected = guard.infer(X)
    decisions = list[Decision]()
    predictor = session_of(bundle) if kind == "session" else callable_of(bundle)
    safe = wrap(predictor, bundle, policy=Policy(screen=0.1), on_decision=decisions.append, **OPTIONS)
    answer = safe.run(None, {"image": X})[0] if kind == "session" else safe(X)
    for name in (*FIELDS, "clipped_labels"):
        np.testing.assert_array_equal(getattr(decisions[0], name), getattr(expected.decision, name), err_msg=name)
    np.testing.assert_allclose(answer, expected.output, rtol=1e-4, atol=1e-5)
    safe.close()


@pytest.mark.parametrize("on_error", ["raise", "open", "closed"])
def test_if_the_clipped_network_fails_only_what_is_held_back_is_untested(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, on_error: Any
) -> None:
    def fails(_: Array) -> NetworkOutput:
        raise InferenceError("no")

    registry = CollectorRegistry()
    with Guard(bundle, policy=Policy(screen=0.1, on_error=on_error), registry=registry, threads=1) as guard:
        held, own = held_back(guard, X, 0.1), guard.networks.original(X).logits.argmax(axis=1)
        monkeypatch.setattr(guard.networks, "clipped", fails)
        assert not guard(X[~held]).flagged.any(), "what passes does not need the clipped network"
        if on_error == "raise":
            with pytest.raises(InferenceError, match="no") as caught:
                guard(X)
            assert caught.value.rows == tuple(np.flatnonzero(held))
            return
        decision = guard(X)
    np.testing.assert_array_equal(decision.reasons == Reason.UNTESTED, held)
    np.testing.assert_array_equal(decision.labels[~held], own[~held])
    assert (decision.labels[held] == (own[held] if on_error == "open" else -1)).all()
    labels = {"model": guard.bundle.manifest.name, "cause": "inference"}
    assert registry.get_sample_value("mmguard_untested_total", labels) == held.sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_not_finite_never_pass(bundle: Path, bad: float) -> None:
    with Guard(bundle, policy=Policy(screen=0.1, on_error="closed"), **OPTIONS) as guard:
        clean = X[~held_back(guard, X, 0.1)]
        spoilt = clean.copy()
        spoilt[[0, 5], 0, 0, 0] = bad
        decision = guard(spoilt)
    assert decision.reasons[[0, 5]].tolist() == [Reason.UNTESTED] * 2
    assert decision.labels[[0, 5]].tolist() == [-1, -1]
    assert not (np.delete(decision.reasons, [0, 5]) == Reason.UNTESTED).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_input_whose_activations_are_not_finite_never_passes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    with Guard(bundle, policy=Policy(screen=0.1, on_error="closed"), **OPTIONS) as guard:
        clean, network = X[~held_back(guard, X, 0.1)], guard.networks.original

        def spoilt(x: Array) -> NetworkOutput:
            output = network(x)
            assert output.activations is not None
            activations = output.activations.copy()
            activations[2] = value
            return NetworkOutput(output.outputs, output.logits, activations)

        monkeypatch.setattr(guard.networks, "original", spoilt)
        decision = guard(clean)
    assert (np.flatnonzero(decision.reasons == Reason.UNTESTED) == [2]).all()


def test_what_is_held_back_is_counted(bundle: Path) -> None:
    registry = CollectorRegistry()
    with Guard(bundle, policy=Policy(screen=0.1), registry=registry, threads=1) as guard:
        held = int(held_back(guard, X, 0.1).sum())
        guard(X)
    model = {"model": guard.bundle.manifest.name}
    assert registry.get_sample_value("mmguard_held_back_total", model) == held
    assert registry.get_sample_value("mmguard_inputs_total", model) == len(X)
    assert registry.get_sample_value("mmguard_margin_gap_count", model) == held
    assert registry.get_sample_value("mmguard_p_value_count", model) == len(X)


def test_shadow_mode_answers_as_the_original_and_counts(bundle: Path) -> None:
    with Guard(bundle, policy=Policy(mode="shadow", screen=0.1), **OPTIONS) as guard:
        result, original = guard.infer(X), guard.networks.original(X)
    np.testing.assert_array_equal(result.output, original.output)
    assert result.decision.flagged[120:].mean() > 0.9


def test_a_bundle_whose_test_reads_no_activations_has_no_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_ended_bundle(tmp_path / "b", LOGITS)
    with Guard(bundle, policy=Policy(screen=0.1), **OPTIONS) as guard:
        seen = rows_clipped(guard, monkeypatch)
        decision = guard(X)
    assert len(seen[0]) == len(X)
    assert (decision.clipped_labels >= 0).all()


def test_a_closed_guard_refuses_batches_that_would_pass(bundle: Path) -> None:
    guard = Guard(bundle, policy=Policy(screen=0.1), **OPTIONS)
    clean = X[~held_back(guard, X, 0.1)]
    guard.close()
    with pytest.raises(InferenceError, match="the guard is closed"):
        guard(clean)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "0.1", None])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(OptionError, match="screen must be a number from 0 to 1"):
        Policy(screen=share)


def slow(guard: Guard, monkeypatch: pytest.MonkeyPatch, form: str, seconds: float) -> None:
    """Make one of the networks slower."""
    network = getattr(guard.networks, form)

    def waits(x: Array) -> NetworkOutput:
        time.sleep(seconds)
        output: NetworkOutput = network(x)
        return output

    monkeypatch.setattr(guard.networks, form, waits)


def test_networks_that_are_slower_than_the_timeout_are_not_late(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(screen=0.1, on_error="open", timeout=0.02)
    with Guard(bundle, policy=policy, **OPTIONS) as guard:
        for form in ("original", "clipped"):
            slow(guard, monkeypatch, form, 0.1)
        decisions = [guard(X[115:130]) for _ in range(3)]
    assert all((decision.reasons != Reason.UNTESTED).all() for decision in decisions)
    assert all(decision.flagged[5:].all() for decision in decisions)


def test_a_clipped_network_that_hangs_is_late(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let = threading.Event()

    def hangs(_: Array) -> NetworkOutput:
        let.wait(20)
        raise InferenceError("no")

    with Guard(bundle, policy=Policy(screen=0.1, on_error="open", timeout=0.05), **OPTIONS) as guard:
        held = held_back(guard, X, 0.1)
        monkeypatch.setattr(guard.networks, "clipped", hangs)
        decision = guard(X)
        let.set()
    np.testing.assert_array_equal(decision.reasons == Reason.UNTESTED, held)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_batch_in_flight_is_judged_though_the_guard_is_closed_meanwhile(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    guard = Guard(bundle, policy=Policy(screen=0.1, timeout=timeout), **OPTIONS)
    network = guard.networks.original

    def closes(x: Array) -> NetworkOutput:
        output = network(x)
        guard.close()
        return output

    monkeypatch.setattr(guard.networks, "original", closes)
    assert guard(X).flagged[120:].mean() > 0.9


def test_as_many_clipped_runs_at_once_as_without_a_screen(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, counting = 0, 0, threading.Lock()
    with Guard(bundle, policy=Policy(screen=0.1), **OPTIONS) as guard:
        network, lanes = guard.networks.clipped, guard.networks.lanes._lanes

        def counts(x: Array) -> NetworkOutput:
            nonlocal at_once, most
            with counting:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.02)
            with counting:
                at_once -= 1
            return network(x)

        monkeypatch.setattr(guard.networks, "clipped", counts)
        with ThreadPoolExecutor(4 * lanes) as pool:
            decisions = list(pool.map(guard, [X[120:122]] * (8 * lanes)))
    assert most <= lanes
    assert all(decision.flagged.all() for decision in decisions)


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_an_input_with_any_logit_that_is_not_finite_never_passes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Also a logit that is far from the largest, so that no margin shows it."""
    with Guard(bundle, policy=Policy(screen=0.1, on_error="closed"), **OPTIONS) as guard:
        clean, network = X[~held_back(guard, X, 0.1)], guard.networks.original

        def spoilt(x: Array) -> NetworkOutput:
            output = network(x)
            logits = output.logits.copy()
            logits[2, logits[2].argmin()] = value
            return NetworkOutput(output.outputs, logits, output.activations)

        monkeypatch.setattr(guard.networks, "original", spoilt)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            decision = guard(clean)
    assert np.flatnonzero(decision.reasons == Reason.UNTESTED).tolist() == [2]
    assert decision.labels[2] == -1


def test_inputs_that_are_not_finite_do_not_run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    with Guard(bundle, policy=Policy(screen=0.1, on_error="closed"), registry=registry, threads=1) as guard:
        clean = X[~held_back(guard, X, 0.1)][:6]
        clean[3, 0, 0, 0] = np.nan
        seen = rows_clipped(guard, monkeypatch)
        decision = guard(clean)
    assert not seen
    assert np.flatnonzero(decision.reasons == Reason.UNTESTED).tolist() == [3]
    model = {"model": guard.bundle.manifest.name}
    assert registry.get_sample_value("mmguard_errors_total", model | {"kind": "input"}) == 1
    assert registry.get_sample_value("mmguard_errors_total", model | {"kind": "inference"}) == 0


def test_inputs_are_counted_as_held_back_though_the_clipped_network_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Array) -> NetworkOutput:
        raise InferenceError("no")

    registry = CollectorRegistry()
    with Guard(bundle, policy=Policy(screen=0.1, on_error="open"), registry=registry, threads=1) as guard:
        held = int(held_back(guard, X, 0.1).sum())
        monkeypatch.setattr(guard.networks, "clipped", fails)
        guard(X)
    model = {"model": guard.bundle.manifest.name}
    assert registry.get_sample_value("mmguard_held_back_total", model) == held


def test_errors_of_a_wrapped_predictor_s_own_network_name_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Array) -> NetworkOutput:
        raise RuntimeError("no memory")

    safe = wrap(session_of(bundle), bundle, policy=Policy(screen=0.1), **OPTIONS)
    monkeypatch.setattr(safe.guard.networks, "original", fails)
    with pytest.raises(InferenceError, match="the original network failed: RuntimeError: no memory"):
        safe.run(None, {"image": X})
    safe.close()
