"""No array is shared between the caller, the predictor, the clipped network and the answer."""

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from mmguard.bundle.bundle import Bundle
from mmguard.errors import LateError
from mmguard.guard import Guard, Policy
from mmguard.guard.answer import own_copy
from mmguard.guard.sessions import NetworkOutput
from mmguard.types import Decision
from tests.bundles import Array, Head, add_trigger, clean_inputs, run_model, tiny_network, write_tiny_bundle
from tests.guard.serving.servers import DEADLINE, Gate

X = np.concatenate([clean_inputs(6, seed=3), add_trigger(clean_inputs(6, seed=4))])
NETWORK = tiny_network()


@pytest.fixture
def guard(tiny_bundle: Path) -> Iterator[Guard]:
    with Guard(tiny_bundle, registry=None, threads=1) as opened:
        yield opened


def answer_of(x: Array) -> NetworkOutput:
    logits = run_model(NETWORK.model(), x)
    return NetworkOutput({"logits": logits}, logits)


def clipped_after(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> Event:
    """Have the clipped network wait for an event before it reads its input."""
    event, clipped = Event(), guard.networks.clipped

    def after(x: Array) -> NetworkOutput:
        assert event.wait(DEADLINE)
        return clipped(x)

    monkeypatch.setattr(guard.networks, "clipped", after)
    return event


def test_a_predictor_that_writes_to_its_input_changes_no_verdict_and_no_array_of_the_caller(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, written = guard(X), clipped_after(guard, monkeypatch)

    def predict(x: Array) -> NetworkOutput:
        output = answer_of(x)
        x -= 0.5
        written.set()
        return output

    given = X.copy()
    decision = guard.infer(given, predict).decision
    np.testing.assert_allclose(decision.p_values, expected.p_values, rtol=1e-5)
    np.testing.assert_array_equal(decision.flagged, expected.flagged)
    np.testing.assert_array_equal(given, X)


def test_a_predictor_that_holds_the_caller_s_array_changes_no_verdict_either(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, written, given = guard(X), clipped_after(guard, monkeypatch), X.copy()

    def predict(x: Array) -> NetworkOutput:
        output = answer_of(x)
        given[:] = 0.5
        written.set()
        return output

    np.testing.assert_allclose(guard.infer(given, predict).decision.p_values, expected.p_values, rtol=1e-5)


def test_a_predictor_is_given_the_layout_that_the_caller_chose(guard: Guard) -> None:
    seen, strided = list[tuple[int, ...]](), np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    def predict(x: Array) -> NetworkOutput:
        seen.append(x.strides)
        return answer_of(x)

    guard.infer(strided, predict)
    assert seen == [strided.strides]


def test_a_predictor_may_use_the_memory_of_its_outputs_again(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, result_of = np.zeros((len(X), 3), np.float32), guard.networks.lanes.result

    def predict(x: Array) -> NetworkOutput:
        buffer[:] = run_model(NETWORK.model(), x)
        return NetworkOutput({"logits": buffer}, buffer)

    def by_another_call(*arguments: Any) -> Any:
        buffer[:] = 9
        return result_of(*arguments)

    monkeypatch.setattr(guard.networks.lanes, "result", by_another_call)
    expected = guard.infer(X)
    result = guard.infer(X, predict)
    np.testing.assert_allclose(result.output, expected.output, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(result.decision.labels, expected.decision.labels)
    kept = result.output.copy()
    buffer[:] = 7
    np.testing.assert_array_equal(result.output, kept)


def test_outputs_of_every_form_are_copied() -> None:
    array, row = np.zeros(2), {"cat": 0.5}
    copies = own_copy({"array": array, "maps": [row], "lists": [[1]]})
    array[0], row["cat"] = 1, 0.0
    assert copies["array"].tolist() == [0, 0]
    assert copies["maps"] == [{"cat": 0.5}]


def test_a_batch_that_was_late_is_answered_without_it_whatever_becomes_of_its_array(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = X.copy()
    with Guard(tiny_bundle, policy=Policy(timeout=0.01), registry=None, threads=1) as guard:
        gate, clipped = Gate(guard.networks.clipped), guard.networks.clipped
        monkeypatch.setattr(guard.networks, "clipped", gate)
        with pytest.raises(LateError):
            guard(given)
        monkeypatch.setattr(guard.networks, "clipped", clipped)
        given[:] = np.nan
        gate.opened.set()
        assert not np.isnan(guard(X).p_values).any()


def decisions(folder: Path, monkeypatch: pytest.MonkeyPatch, tested: bool, policy: Policy, late: bool) -> Any:
    bundle = Bundle.open(write_tiny_bundle(folder / "b", head=Head.SOFTMAX))
    manifest = bundle.manifest if tested else replace(bundle.manifest, null=None)
    with Guard(replace(bundle, manifest=manifest), policy=policy, registry=None, threads=1) as guard:
        if late:
            monkeypatch.setattr(guard.networks, "clipped", lambda x: 1 / 0)
        return guard.infer(X)


@pytest.mark.parametrize("tested", [True, False])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "policy",
    [Policy(on_error="open"), Policy(on_error="closed"), Policy(mode="shadow"), Policy("enforce", "abstain", "open")],
)
def test_no_two_arrays_of_an_answer_share_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tested: bool, policy: Policy, late: bool
) -> None:
    result = decisions(tmp_path, monkeypatch, tested, policy, late)
    arrays = {field.name: getattr(result.decision, field.name) for field in fields(Decision)} | result.outputs
    for (one, a), (two, b) in combinations(arrays.items(), 2):
        assert not np.shares_memory(a, b), f"{one} and {two}"
    assert all(array.flags.writeable for array in arrays.values())


def test_two_calls_share_nothing(guard: Guard) -> None:
    first = guard.infer(X)
    kept = first.output.copy(), first.decision.labels.copy(), first.decision.reasons.copy()
    guard.infer(X[::-1].copy())
    first.decision.labels[:] = 5
    second = guard.infer(X)
    np.testing.assert_array_equal(first.output, kept[0])
    np.testing.assert_array_equal(second.decision.labels, kept[1])
    np.testing.assert_array_equal(second.decision.reasons, kept[2])
