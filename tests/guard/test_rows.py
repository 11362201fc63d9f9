"""Rows are judged one by one: a row that cannot be judged does not affect the others."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from prometheus_client import CollectorRegistry

from mmguard.bundle.bundle import Bundle
from mmguard.errors import InferenceError, InputError, OverloadError
from mmguard.guard import Guard, Policy
from mmguard.guard import lanes as lanes_module
from mmguard.guard.scan import scan
from mmguard.guard.sessions import NetworkOutput
from mmguard.inputs.batch_checks import rows_are
from mmguard.types import Decision
from tests.bundles import (
    Array,
    Head,
    add_trigger,
    clean_inputs,
    hash_anew,
    run_model,
    tiny_bounds,
    tiny_network,
    write_tiny_bundle,
)
from tests.guard.serving.servers import DEADLINE

X = np.concatenate([clean_inputs(4, seed=3), add_trigger(clean_inputs(4, seed=4))])
BAD = [1, 6]
GOOD = [0, 2, 3, 4, 5, 7]
HUGE = 3e38
"""Finite, but the network's sums of it are not."""
NETWORK = tiny_network()


def guard_of(bundle: Path | Bundle, registry: CollectorRegistry | None = None, **policy: Any) -> Guard:
    return Guard(bundle, policy=Policy(**policy), registry=registry, threads=1)


def with_bad(value: float) -> Array:
    """Return the inputs with one odd value in each of the bad rows."""
    x = X.copy()
    x[BAD, 0, 3, 3] = value
    return x


def spoil(guard: Guard, monkeypatch: pytest.MonkeyPatch, form: str, value: float = np.nan) -> None:
    """Make one of a guard's networks return one odd logit in the bad rows."""
    network = getattr(guard.networks, form)

    def spoilt(x: Array) -> NetworkOutput:
        output = network(x)
        logits = output.logits.copy()
        logits[BAD, 1] = value
        return NetworkOutput(dict.fromkeys(output.outputs, logits), logits)

    monkeypatch.setattr(guard.networks, form, spoilt)


def value_in(registry: CollectorRegistry) -> Callable[..., float | None]:
    return lambda name, **labels: registry.get_sample_value(f"mmguard_{name}", {"model": "tiny"} | labels)


def assert_good_rows_as_alone(decision: Decision, output: Array, bundle: Path, **policy: Any) -> None:
    """Check that the good rows are answered as if they had come alone."""
    with guard_of(bundle, **policy) as other:
        alone = other.infer(X[GOOD])
    for field in fields(Decision):
        ours, expected = getattr(decision, field.name)[GOOD], getattr(alone.decision, field.name)
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(output[GOOD], alone.output, rtol=1e-4, atol=1e-5)


def assert_bad_rows_untested(decision: Decision) -> None:
    assert decision.reasons[BAD].tolist() == ["untested", "untested"]
    assert decision.clipped_labels[BAD].tolist() == [-1, -1]
    assert not decision.flagged[BAD].any()
    assert not decision.corrected[BAD].any()
    assert np.isnan(decision.p_values[BAD]).all()
    assert np.isnan(decision.margin_gaps[BAD]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_named(tiny_bundle: Path, value: float) -> None:
    registry = CollectorRegistry()
    with guard_of(tiny_bundle, registry) as guard, pytest.raises(InputError, match="rows 1, 6 contain NaN") as caught:
        guard(with_bad(value))
    assert caught.value.rows == (1, 6)
    assert value_in(registry)("errors_total", kind="input") == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, HUGE])
@pytest.mark.parametrize("on_error", ["open", "closed"])
@pytest.mark.parametrize("mode", ["enforce", "shadow"])
def test_a_bad_input_leaves_the_others_judged(tiny_bundle: Path, value: float, on_error: Any, mode: Any) -> None:
    policy = {"on_error": on_error, "mode": mode}
    with guard_of(tiny_bundle, **policy) as guard:
        result = guard.infer(with_bad(value))
    decision, own = result.decision, run_model(NETWORK.model(), with_bad(value))
    assert_good_rows_as_alone(decision, result.output, tiny_bundle, **policy)
    assert_bad_rows_untested(decision)
    expected = [int(row.argmax()) if np.isfinite(row).all() else -1 for row in own[BAD]]
    assert decision.original_labels[BAD].tolist() == expected
    if mode == "shadow":
        assert result.output.tobytes() == own.tobytes()
    elif on_error == "closed":
        assert np.isnan(result.output[BAD]).all()
    else:
        for row, label in zip(BAD, expected, strict=True):
            np.testing.assert_array_equal(result.output[row], own[row] if label >= 0 else [np.nan] * 3)
    closed = on_error == "closed" and mode == "enforce"
    assert decision.labels[BAD].tolist() == ([-1, -1] if closed else expected)


def test_the_clipped_network_sees_zeros_for_a_bad_input_and_the_original_what_came(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guard_of(tiny_bundle, on_error="open") as guard:
        seen = dict[str, Array]()
        for form in ("original", "clipped"):
            monkeypatch.setattr(guard.networks, form, _recorded(form, getattr(guard.networks, form), seen))
        guard(with_bad(np.inf))
    expected = X.copy()
    expected[BAD] = 0
    np.testing.assert_array_equal(seen["clipped"], expected)
    np.testing.assert_array_equal(seen["original"], with_bad(np.inf))


def _recorded(form: str, network: Any, seen: dict[str, Array]) -> Callable[[Array], NetworkOutput]:
    def record(x: Array) -> NetworkOutput:
        seen[form] = x.copy()
        output: NetworkOutput = network(x)
        return output

    return record


def test_logits_are_checked_once_for_each_network(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isfinite, shapes = np.isfinite, list[tuple[int, ...]]()

    def counted(array: Any) -> Any:
        shapes.append(np.shape(array))
        return isfinite(array)

    with guard_of(tiny_bundle) as guard:
        monkeypatch.setattr(np, "isfinite", counted)
        guard(X)
        monkeypatch.undo()
    assert shapes == [X.shape, (len(X), 3), (len(X), 3)]


def test_a_scan_says_which_rows_were_not_tested(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with guard_of(write_tiny_bundle(tmp_path / "b", broken=True), on_error="open") as guard:
        rows = list(scan(guard, tmp_path / "x.npy", skip_bad=True))
    assert [(row["reason"], row["flagged"], row["p_value"]) for row in rows] == [("untested", False, None)] * len(X)


def test_an_overflowing_row_is_named(tiny_bundle: Path) -> None:
    with guard_of(tiny_bundle) as guard, pytest.raises(InferenceError, match="rows 1, 6 contain NaN or inf") as caught:
        guard(with_bad(HUGE))
    assert caught.value.rows == (1, 6)


@pytest.mark.parametrize("form", ["original", "clipped"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_network_s_odd_logit_is_its_row_s(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, form: str, value: float
) -> None:
    registry = CollectorRegistry()
    with guard_of(tiny_bundle, registry, on_error="open") as guard:
        spoil(guard, monkeypatch, form, value)
        result = guard.infer(X)
    own = run_model(NETWORK.model(), X).argmax(axis=1)
    assert_bad_rows_untested(result.decision)
    assert_good_rows_as_alone(result.decision, result.output, tiny_bundle, on_error="open")
    assert result.decision.labels[BAD].tolist() == ([-1, -1] if form == "original" else own[BAD].tolist())
    assert np.isnan(result.output[BAD]).all() == (form == "original")
    value_of = value_in(registry)
    assert (value_of("untested_total", cause="inference"), value_of("degraded_total", policy="open")) == (2, 2)
    assert (value_of("errors_total", kind="inference"), value_of("inputs_total")) == (1, 6)


@pytest.mark.parametrize(("form", "said"), [("original", "the original network"), ("clipped", "the clipped network")])
def test_by_default_an_odd_logit_raises_and_says_whose(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, form: str, said: str
) -> None:
    with guard_of(tiny_bundle) as guard:
        spoil(guard, monkeypatch, form)
        with pytest.raises(InferenceError, match=f"{said}: rows 1, 6 contain") as caught:
            guard(X)
    assert caught.value.rows == (1, 6)


def test_what_is_not_tested_is_in_no_histogram_and_not_in_the_drift(tiny_bundle: Path) -> None:
    bad, good = CollectorRegistry(), CollectorRegistry()
    with guard_of(tiny_bundle, bad, on_error="open") as guard:
        guard(with_bad(np.nan))
    with guard_of(tiny_bundle, good) as guard:
        guard(X[GOOD])
    ours, expected = value_in(bad), value_in(good)
    for name in ("inputs_total", "p_value_count", "margin_gap_count", "corrections_total"):
        assert (ours(name) or 0) == expected(name) != 0
    assert ours("p_value_sum") == pytest.approx(expected("p_value_sum"), rel=1e-4)
    assert ours("null_drift") == pytest.approx(expected("null_drift"), rel=1e-4)
    assert (ours("untested_total", cause="input"), ours("errors_total", kind="input")) == (2, 1)
    assert ours("untested_total", cause="inference") == 0


def test_rows_bad_for_different_causes_are_counted_by_each(tiny_bundle: Path) -> None:
    registry, x = CollectorRegistry(), X.copy()
    x[1, 0, 3, 3], x[6] = np.nan, HUGE
    with guard_of(tiny_bundle, registry, on_error="open") as guard:
        decision = guard(x)
    assert_bad_rows_untested(decision)
    value_of = value_in(registry)
    assert [value_of("untested_total", cause=cause) for cause in ("input", "inference")] == [1, 1]
    assert [value_of("errors_total", kind=kind) for kind in ("input", "inference")] == [1, 1]


def test_a_batch_filled_up_with_a_bad_last_row_answers_the_others(tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b")
    for form, bounds in (("original", None), ("clipped", tiny_bounds(NETWORK))):
        model = NETWORK.model(bounds)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
        onnx.save(model, bundle / f"{form}.onnx")
    hash_anew(bundle)
    x = X.copy()
    x[-1] = np.nan
    with guard_of(bundle, on_error="open") as guard:
        decision = guard(x)
    with guard_of(tiny_bundle) as other:
        expected = other(X[:-1])
    np.testing.assert_allclose(decision.p_values[:-1], expected.p_values, rtol=1e-3)
    np.testing.assert_array_equal(decision.labels[:-1], expected.labels)
    assert decision.reasons[-1] == "untested"


@pytest.mark.parametrize("on_error", ["open", "closed"])
def test_a_corrected_model_answers_by_its_policy_what_it_cannot_correct(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, on_error: Any
) -> None:
    tested = Bundle.open(tiny_bundle)
    with guard_of(replace(tested, manifest=replace(tested.manifest, null=None)), on_error=on_error) as guard:
        spoil(guard, monkeypatch, "clipped")
        result = guard.infer(X)
    own, clipped = run_model(NETWORK.model(), X), run_model(NETWORK.model(tiny_bounds(NETWORK)), X)
    decision = result.decision
    assert decision.labels[GOOD].tolist() == clipped[GOOD].argmax(axis=1).tolist()
    np.testing.assert_allclose(result.output[GOOD], clipped[GOOD], rtol=1e-4, atol=1e-5)
    assert decision.reasons[GOOD].tolist() == ["none"] * len(GOOD)
    assert decision.reasons[BAD].tolist() == ["untested"] * 2
    if on_error == "open":
        assert decision.labels[BAD].tolist() == own[BAD].argmax(axis=1).tolist()
        np.testing.assert_allclose(result.output[BAD], own[BAD], rtol=1e-5)
    else:
        assert decision.labels[BAD].tolist() == [-1, -1]
        assert np.isnan(result.output[BAD]).all()


ODD = [RuntimeError("no"), MemoryError("no"), ValueError("no"), OSError("no"), TimeoutError("no")]


def raiser(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("part", ["clipped", "test"])
def test_whatever_fails_beside_the_original_is_the_policy_s(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, part: str
) -> None:
    for on_error in ("raise", "open", "closed"):
        registry = CollectorRegistry()
        with guard_of(tiny_bundle, registry, on_error=on_error, timeout=60.0) as guard:
            if part == "clipped":
                monkeypatch.setattr(guard.networks, "clipped", raiser(error))
            else:
                monkeypatch.setattr(guard._judge, "_test", SimpleNamespace(verdicts=raiser(error)))
            if on_error == "raise":
                with pytest.raises(InferenceError, match=f"{part}.* failed: {type(error).__name__}: no") as caught:
                    guard(X)
                assert caught.value.__cause__ is error
                assert caught.value.rows == tuple(range(len(X)))
            else:
                decision = guard(X)
                assert decision.reasons.tolist() == ["untested"] * len(X)
                own = run_model(NETWORK.model(), X).argmax(axis=1).tolist()
                assert decision.labels.tolist() == (own if on_error == "open" else [-1] * len(X))
        untested = value_in(registry)("untested_total", cause="inference")
        assert untested == (0 if on_error == "raise" else len(X))
        assert value_in(registry)("errors_total", kind="inference") == 1


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_a_flag_whose_correction_fails_is_answered_by_the_policy_and_stays_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", head=Head.SOFTMAX)
    own = run_model(tiny_network(head=Head.SOFTMAX).model(), X)
    with guard_of(bundle) as guard:
        flagged = guard(X).flagged
        assert flagged.any()
    for on_error in ("raise", "open", "closed"):
        registry = CollectorRegistry()
        with guard_of(bundle, registry, on_error=on_error) as guard:
            monkeypatch.setattr(guard._judge, "_head", raiser(error))
            if on_error == "raise":
                with pytest.raises(InferenceError, match=f"the output head failed: {type(error).__name__}") as caught:
                    guard(X)
                assert caught.value.rows == tuple(np.flatnonzero(flagged).tolist())
            else:
                result = guard.infer(X)
                assert result.decision.flagged.tolist() == flagged.tolist()
                assert not result.decision.corrected.any()
                given = own.argmax(axis=1)[flagged] if on_error == "open" else np.full(flagged.sum(), -1)
                assert result.decision.labels[flagged].tolist() == given.tolist()
                np.testing.assert_allclose(result.output[~flagged], own[~flagged], rtol=1e-5)
                shown = own[flagged] if on_error == "open" else np.full((flagged.sum(), 3), np.nan)
                np.testing.assert_allclose(result.output[flagged], shown, rtol=1e-5)
        value_of = value_in(registry)
        assert value_of("errors_total", kind="inference") == 1
        assert value_of("untested_total", cause="inference") == 0
        if on_error != "raise":
            assert value_of("degraded_total", policy=on_error) == flagged.sum()


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("policy", [{}, {"on_error": "open"}, {"on_error": "closed"}, {"mode": "shadow"}])
def test_without_the_original_there_is_no_answer_and_its_own_error_is_raised_and_counted(
    tiny_bundle: Path, error: Exception, policy: dict[str, Any]
) -> None:
    registry = CollectorRegistry()
    with guard_of(tiny_bundle, registry, **policy) as guard:
        with pytest.raises(type(error), match="no"):
            guard.infer(X, raiser(error))
        assert value_in(registry)("errors_total", kind="inference") == 1
        assert not np.isnan(guard(X).p_values).any()


def test_a_predictor_that_fails_leaves_no_batch_in_line(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let = Event()
    with guard_of(tiny_bundle) as guard:
        lanes = guard.networks.lanes
        monkeypatch.setattr(lanes, "_lanes", 1)
        lanes.start(lambda: let.wait(DEADLINE))
        with pytest.raises(ConnectionError):
            guard.infer(X, raiser(ConnectionError("gone")))
        assert not lanes._line
        let.set()


def test_a_session_s_error_of_any_kind_is_an_inference_error(tiny_bundle: Path) -> None:
    class Session:
        def get_inputs(self) -> Any:
            raise MemoryError("no memory")

    with guard_of(tiny_bundle) as guard:
        guard.networks.original._session._session = Session()
        with pytest.raises(InferenceError, match="no memory"):
            guard(X)


@pytest.mark.parametrize("shape", [(len(X), 4), (len(X) - 1, 3), (len(X),)])
def test_a_predictor_s_logits_of_another_shape_are_refused_and_counted(
    tiny_bundle: Path, shape: tuple[int, ...]
) -> None:
    registry = CollectorRegistry()
    output = NetworkOutput({"logits": np.zeros(shape)}, np.zeros(shape, np.float32))
    with (
        guard_of(tiny_bundle, registry, on_error="open") as guard,
        pytest.raises(
            InferenceError,
            match=r"expected float32 logits of shape \(8, 3\) for 8 inputs, "
            rf"got float32 of shape {re.escape(str(shape))}",
        ),
    ):
        guard.infer(X, lambda _: output)
    assert value_in(registry)("errors_total", kind="inference") == 1


@pytest.mark.parametrize("on_error", ["raise", "open", "closed"])
def test_a_guard_with_too_much_to_do_refuses_and_lets_nothing_pass_untested(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, on_error: Any
) -> None:
    monkeypatch.setattr(lanes_module, "MAX_PENDING", 1)
    monkeypatch.setattr(lanes_module, "MAX_WAIT", 0.01)
    registry, busy = CollectorRegistry(), Event()
    with guard_of(tiny_bundle, registry, on_error=on_error, timeout=0.01) as guard:
        guard.networks.lanes.start(lambda: busy.wait(DEADLINE))
        with pytest.raises(OverloadError):
            guard(X)
        busy.set()
    value_of = value_in(registry)
    assert (value_of("errors_total", kind="overload"), value_of("untested_total", cause="overload")) == (1, 0)


def test_in_shadow_mode_too_much_to_do_costs_the_test_and_nothing_else(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    with guard_of(tiny_bundle, registry, mode="shadow") as guard:
        monkeypatch.setattr(guard.networks.lanes, "start", raiser(OverloadError("full")))
        result = guard.infer(X)
    own = run_model(NETWORK.model(), X)
    assert result.output.tobytes() == own.tobytes()
    assert result.decision.labels.tolist() == own.argmax(axis=1).tolist()
    assert result.decision.reasons.tolist() == ["untested"] * len(X)
    value_of = value_in(registry)
    assert (value_of("errors_total", kind="overload"), value_of("untested_total", cause="overload")) == (1, len(X))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([3], "row 3 contains"),
        ([0, 7], "rows 0, 7 contain"),
        (range(10), "rows 0, 1, 2, 3, 4 and 5 more contain"),
    ],
)
def test_rows_are_named_but_not_thousands(rows: Any, said: str) -> None:
    marks = np.zeros(12, bool)
    marks[list(rows)] = True
    assert rows_are(marks) == said
