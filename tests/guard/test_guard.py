from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy.special import log_softmax, softmax
from scipy.stats import norm, yeojohnson

from mmguard.bundle.bundle import Bundle
from mmguard.detection.margins import exclude_class, margin_gap
from mmguard.errors import InferenceError, InputError, ModelError, OptionError, ProviderError
from mmguard.guard import Guard, Policy, lanes
from mmguard.guard.sessions import open_session
from mmguard.types import ABSTAIN, Reason
from tests.bundles import (
    TARGET,
    Array,
    Head,
    add_trigger,
    clean_inputs,
    run_model,
    tiny_bounds,
    tiny_network,
    write_tiny_bundle,
)
from tests.guard.serving.servers import Gate, wait_until

CLEAN = clean_inputs(40, seed=3)
TRIGGERED = add_trigger(clean_inputs(24, seed=4))
MIXED = np.concatenate([CLEAN, TRIGGERED])
NETWORK = tiny_network()
HEADS: dict[Head, Callable[[Array], Array]] = {
    Head.NONE: np.array,
    Head.SOFTMAX: partial(softmax, axis=1),
    Head.LOG_SOFTMAX: partial(log_softmax, axis=1),
}


def guard_of(bundle: Path, **policy: Any) -> Guard:
    return Guard(bundle, policy=Policy(**policy), registry=None, threads=1)


@pytest.fixture
def guard(tiny_bundle: Path) -> Iterator[Guard]:
    with guard_of(tiny_bundle) as opened:
        yield opened


def logits_of(x: Array) -> tuple[Array, Array]:
    """Both networks' logits, without a guard."""
    return run_model(NETWORK.model(), x), run_model(NETWORK.model(tiny_bounds(NETWORK)), x)


def test_triggered_inputs_are_flagged_and_clean_ones_are_not(guard: Guard) -> None:
    clean, triggered = guard(CLEAN), guard(TRIGGERED)
    assert clean.flagged.mean() < 0.2
    assert triggered.flagged.all()
    np.testing.assert_array_equal(triggered.original_labels, TARGET)
    assert (triggered.labels != TARGET).all()


def test_a_decision_is_what_the_paper_says_of_the_two_networks_logits(guard: Guard) -> None:
    original, clipped = logits_of(MIXED)
    null, decision = guard.bundle.manifest.null, guard(MIXED)
    assert null is not None
    np.testing.assert_array_equal(decision.original_labels, original.argmax(axis=1))
    np.testing.assert_array_equal(decision.clipped_labels, clipped.argmax(axis=1))
    np.testing.assert_allclose(decision.margin_gaps, margin_gap(original, clipped), rtol=1e-5, atol=1e-5)
    (criterion,) = null.criteria
    transformed = yeojohnson(decision.margin_gaps / criterion.scale, criterion.power)
    np.testing.assert_allclose(decision.p_values, norm.sf(transformed, criterion.mean, criterion.std), rtol=1e-7)
    confidence = decision.p_values <= null.theta
    disagreement = (original.argmax(axis=1) != clipped.argmax(axis=1)) & (decision.p_values <= null.disagreement_theta)
    reasons = np.select(
        [confidence & disagreement, confidence, disagreement],
        [Reason.BOTH, Reason.CONFIDENCE, Reason.DISAGREEMENT],
        Reason.NONE,
    )
    np.testing.assert_array_equal(decision.reasons, reasons)
    np.testing.assert_array_equal(decision.flagged, confidence | disagreement)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_decision_has_the_shapes_and_dtypes_promised(guard: Guard, n: int) -> None:
    result = guard.infer(MIXED[len(MIXED) - n :])
    decision = result.decision
    assert len(decision) == n
    assert result.output.shape == (n, 3)
    assert result.output.dtype == np.float32
    for labels in (decision.labels, decision.original_labels, decision.clipped_labels):
        assert labels.shape == (n,)
        assert labels.dtype == np.int64
    for marks in (decision.flagged, decision.corrected):
        assert marks.shape == (n,)
        assert marks.dtype == np.bool_
    for numbers in (decision.p_values, decision.margin_gaps):
        assert numbers.shape == (n,)
        assert numbers.dtype == np.float64
    assert decision.reasons.shape == (n,)


def test_a_row_does_not_depend_on_the_batch_it_comes_in(guard: Guard) -> None:
    together = guard(MIXED)
    alone = [guard(x[None]) for x in MIXED]
    np.testing.assert_array_equal(together.flagged, [decision.flagged[0] for decision in alone])
    np.testing.assert_allclose(together.margin_gaps, [decision.margin_gaps[0] for decision in alone], atol=1e-4)


@pytest.mark.parametrize("head", list(Head))
def test_a_corrected_row_carries_the_clipped_values_with_the_original_s_class_last(tmp_path: Path, head: Head) -> None:
    with guard_of(write_tiny_bundle(tmp_path / "b", head=head)) as guard:
        result = guard.infer(MIXED)
        own = guard.networks.original(MIXED).output
    decision, (original, clipped) = result.decision, logits_of(MIXED)
    np.testing.assert_array_equal(decision.corrected, decision.flagged)
    rows = decision.flagged
    assert rows.any()
    np.testing.assert_array_equal(result.output[~rows], own[~rows])
    expected = exclude_class(clipped, original.argmax(axis=1))
    expected = HEADS[head](expected)
    np.testing.assert_allclose(result.output[rows], expected[rows], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(result.output.argmax(axis=1), decision.labels)
    np.testing.assert_array_equal(result.output[rows].argmin(axis=1), decision.original_labels[rows])
    assert (decision.labels[rows] != decision.original_labels[rows]).all()
    np.testing.assert_array_equal(decision.labels[~rows], decision.original_labels[~rows])


def test_an_abstaining_guard_gives_no_label_and_a_row_of_nan(tiny_bundle: Path) -> None:
    with guard_of(tiny_bundle, on_flag="abstain") as guard:
        result, own = guard.infer(MIXED), guard.networks.original(MIXED).output
    rows = result.decision.flagged
    assert (result.decision.labels[rows] == ABSTAIN).all()
    assert np.isnan(result.output[rows]).all()
    np.testing.assert_array_equal(result.output[~rows], own[~rows])
    assert not result.decision.corrected.any()


@pytest.mark.parametrize(
    "policy", [{"on_flag": "original"}, {"mode": "shadow"}, {"mode": "shadow", "on_flag": "abstain"}]
)
@pytest.mark.parametrize("head", list(Head))
def test_a_guard_that_may_not_act_answers_the_original_bit_for_bit(
    tmp_path: Path, policy: dict[str, Any], head: Head
) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", head=head)
    session = open_session(Bundle.open(bundle).runtime_graph("original"), ["CPUExecutionProvider"], 1)
    with guard_of(bundle, **policy) as guard:
        for n in (1, 7, 64):
            result = guard.infer(MIXED[-n:])
            expected = session.run(list(guard.bundle.manifest.output.names), {"image": MIXED[-n:]})[0]
            assert result.output.tobytes() == expected.tobytes()
            np.testing.assert_array_equal(result.decision.labels, result.decision.original_labels)
            assert not result.decision.corrected.any()
            assert result.decision.flagged.any()


def test_a_failing_clipped_network_raises_by_default(tmp_path: Path) -> None:
    with (
        guard_of(write_tiny_bundle(tmp_path / "b", broken=True)) as guard,
        pytest.raises(InferenceError, match="NaN or infinite"),
    ):
        guard(CLEAN)


def assert_untested(guard: Guard, closed: bool) -> None:
    result = guard.infer(CLEAN)
    decision, original = result.decision, logits_of(CLEAN)[0]
    np.testing.assert_array_equal(decision.original_labels, original.argmax(axis=1))
    assert np.isnan(decision.p_values).all()
    assert np.isnan(decision.margin_gaps).all()
    assert (decision.clipped_labels == ABSTAIN).all()
    assert decision.reasons.tolist() == ["untested"] * len(CLEAN)
    assert not decision.flagged.any()
    assert not decision.corrected.any()
    if closed:
        assert (decision.labels == ABSTAIN).all()
        assert np.isnan(result.output).all()
    else:
        np.testing.assert_array_equal(decision.labels, decision.original_labels)
        np.testing.assert_array_equal(result.output, guard.networks.original(CLEAN).output)


@pytest.mark.parametrize(
    ("policy", "closed"),
    [
        ({"on_error": "open"}, False),
        ({"on_error": "closed"}, True),
        ({"on_error": "closed", "mode": "shadow"}, False),
        ({"on_error": "raise", "mode": "shadow"}, False),
    ],
)
def test_a_failing_clipped_network_is_answered_by_the_policy(
    tmp_path: Path, policy: dict[str, Any], closed: bool
) -> None:
    with guard_of(write_tiny_bundle(tmp_path / "b", broken=True), **policy) as guard:
        assert_untested(guard, closed)


@pytest.mark.parametrize(("on_error", "closed"), [("open", False), ("closed", True)])
def test_a_late_clipped_network_is_answered_by_the_policy(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, on_error: str, closed: bool
) -> None:
    with guard_of(tiny_bundle, on_error=on_error, timeout=0.01) as guard:
        gate = Gate(guard.networks.clipped)
        monkeypatch.setattr(guard.networks, "clipped", gate)
        assert_untested(guard, closed)
        gate.opened.set()


def test_a_late_clipped_network_raises_by_default(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guard_of(tiny_bundle, timeout=0.01) as guard:
        gate = Gate(guard.networks.clipped)
        monkeypatch.setattr(guard.networks, "clipped", gate)
        with pytest.raises(InferenceError, match=r"not finish within 0\.01 s after the original"):
            guard(CLEAN)
        gate.opened.set()


def test_a_network_in_time_is_not_late(tiny_bundle: Path) -> None:
    with guard_of(tiny_bundle, timeout=60.0) as guard:
        assert not np.isnan(guard(CLEAN).p_values).any()


def test_a_failing_original_raises_whatever_the_policy(tiny_bundle: Path) -> None:
    def fail(x: Array) -> Any:
        raise InferenceError("no")

    with guard_of(tiny_bundle, on_error="open") as guard, pytest.raises(InferenceError, match=r"^no$"):
        guard.infer(CLEAN, fail)


@pytest.mark.parametrize(
    "x",
    [
        CLEAN.astype(np.float64),
        CLEAN[0],
        CLEAN[:, :2],
        CLEAN[:, :, :4],
        np.full_like(CLEAN, np.nan),
        np.full_like(CLEAN, np.inf),
        CLEAN.tolist(),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused(guard: Guard, x: Any) -> None:
    with pytest.raises(InputError, match="image"):
        guard(x)


def test_inputs_may_lie_anyhow_in_memory(guard: Guard) -> None:
    expected = guard(MIXED)
    strided = np.ascontiguousarray(MIXED.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    frozen = MIXED.copy()
    frozen.flags.writeable = False
    for x in (strided, frozen, np.repeat(MIXED, 2, axis=0)[::2]):
        np.testing.assert_array_equal(guard(x).p_values, expected.p_values)


def test_many_threads_get_their_own_answers(guard: Guard) -> None:
    batches = [MIXED[np.random.default_rng(i).permutation(len(MIXED))[:9]] for i in range(32)]
    expected = [guard(x) for x in batches]
    with ThreadPoolExecutor(8) as threads:
        for decision, wanted in zip(threads.map(guard, batches), expected, strict=True):
            np.testing.assert_array_equal(decision.p_values, wanted.p_values)


def test_a_guard_takes_an_open_bundle(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    with Guard(bundle, registry=CollectorRegistry(), threads=1) as guard:
        assert guard.bundle is bundle
        assert len(guard(CLEAN)) == len(CLEAN)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_cannot_be_had_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(ProviderError, match="NoSuchExecutionProvider"):
        Guard(tiny_bundle, providers=["NoSuchExecutionProvider"], registry=None)


def test_a_network_that_onnx_runtime_cannot_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"not onnx")
    with pytest.raises(ModelError, match=r"cannot load .*a\.onnx"):
        open_session(tmp_path / "a.onnx", ["CPUExecutionProvider"], 1)


def test_a_closed_guard_says_so_and_closing_again_does_nothing(tiny_bundle: Path) -> None:
    guard = guard_of(tiny_bundle)
    for _ in range(2):
        guard.close()
        with pytest.raises(InferenceError, match="the guard is closed"):
            guard(CLEAN)


def test_a_with_block_closes_its_guard_also_after_an_error(tiny_bundle: Path) -> None:
    with guard_of(tiny_bundle) as guard:
        assert len(guard(CLEAN)) == len(CLEAN)
    with pytest.raises(ZeroDivisionError), guard_of(tiny_bundle) as other:
        raise ZeroDivisionError
    for closed in (guard, other):
        with pytest.raises(InferenceError, match="the guard is closed"):
            closed(CLEAN)


def test_a_hung_network_holds_a_bounded_number_of_batches_and_no_later_one_waits(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_PENDING", 2)
    with guard_of(tiny_bundle, on_error="open", timeout=0.01) as guard:
        healthy, gate = guard.networks.clipped, Gate(guard.networks.clipped)
        monkeypatch.setattr(guard.networks, "clipped", gate)
        for _ in range(4):
            assert np.isnan(guard(CLEAN).p_values).all()
        gate.opened.set()
        monkeypatch.setattr(guard.networks, "clipped", healthy)
        wait_until(lambda: not np.isnan(guard(CLEAN).p_values).any())


def test_a_policy_that_is_none_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match=r"policy must be an mmguard\.Policy"):
        Guard(tiny_bundle, policy="abstain", registry=None)  # type: ignore[arg-type]
