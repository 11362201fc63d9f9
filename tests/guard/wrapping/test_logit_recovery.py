"""A predictor that gives probabilities runs once; the bundle's original does not run beside it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from mmguard.guard import Guard, Policy, wrap
from mmguard.types import Decision
from tests.bundles import Array, add_trigger, clean_inputs
from tests.guard.wrapping.endings import (
    ENDINGS,
    LOW_LIMIT,
    RECOVERED,
    callable_of,
    rows_of_the_original,
    session_of,
    write_ended_bundle,
)

MIXED = np.concatenate([clean_inputs(60, seed=3), add_trigger(clean_inputs(40, seed=4))])
OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}
Bundles = Callable[..., Path]
SCALES = dict.fromkeys(("sigmoid", "flat sigmoid", "both of a sigmoid"), 0.1)
"""Of the logits, where not 1: above 9, float32's sigmoid is too near 1 for logits to come back."""


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Bundles by ending, statistics and scale of the logits, each written once."""

    @cache
    def write(end: str, statistics: tuple[str, ...] = ("residual_margin_gap",), scale: float = 1) -> Path:
        return write_ended_bundle(tmp_path_factory.mktemp("ended") / "b", ENDINGS[end], statistics, scale)

    return write


def judged(bundle: Path, x: Array = MIXED, **policy: Any) -> tuple[Decision, dict[str, Any]]:
    """What the guard says of its own two networks."""
    with Guard(bundle, policy=Policy(**policy), **OPTIONS) as guard:
        result = guard.infer(x)
        return result.decision, result.outputs


def assert_same(found: Decision, expected: Decision) -> None:
    for name in ("labels", "original_labels", "clipped_labels", "flagged", "corrected", "reasons"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.margin_gaps, expected.margin_gaps, atol=2e-3)
    np.testing.assert_allclose(found.p_values, expected.p_values, rtol=0.05, atol=1e-12)


@pytest.mark.parametrize("policy", [{}, {"on_flag": "abstain"}, {"mode": "shadow"}], ids=str)
@pytest.mark.parametrize("end", ENDINGS)
def test_decisions_and_answers_are_those_of_the_guard_s_own_networks(
    bundle_of: Bundles, end: str, policy: dict[str, Any]
) -> None:
    bundle, decisions = bundle_of(end), list[Decision]()
    expected, outputs = judged(bundle, **policy)
    safe = wrap(session_of(bundle), bundle, policy=Policy(**policy), on_decision=decisions.append, **OPTIONS)
    answers = safe.run(None, {"image": MIXED})
    assert_same(decisions[0], expected)
    assert expected.flagged.any()
    assert not expected.flagged.all()
    for answer, output in zip(answers, outputs.values(), strict=True):
        if isinstance(output, list):
            assert list(map(str, answer)) == list(map(str, output))
        else:
            np.testing.assert_array_equal(answer, output)


@pytest.mark.parametrize("end", RECOVERED)
def test_the_original_does_not_run_beside_a_session_that_gives_probabilities(bundle_of: Bundles, end: str) -> None:
    bundle = bundle_of(end, scale=SCALES.get(end, 1))
    safe = wrap(session_of(bundle), bundle, **OPTIONS)
    rows = rows_of_the_original(safe)
    safe.run(None, {"image": MIXED})
    assert sum(rows) == 0


@pytest.mark.parametrize("end", sorted({*ENDINGS} - {*RECOVERED}))
def test_the_original_runs_where_the_answers_have_lost_the_logits(bundle_of: Bundles, end: str) -> None:
    bundle = bundle_of(end)
    safe = wrap(session_of(bundle), bundle, **OPTIONS)
    rows = rows_of_the_original(safe)
    safe.run(None, {"image": MIXED})
    assert rows == [len(MIXED)]


@pytest.mark.parametrize("end", ["softmax", "log-softmax", "sigmoid"])
def test_a_corrected_model_needs_no_original_either(bundle_of: Bundles, end: str) -> None:
    bundle = bundle_of(end, (), SCALES.get(end, 1))
    safe = wrap(session_of(bundle), bundle, **OPTIONS)
    rows = rows_of_the_original(safe)
    (answer,) = safe.run(None, {"image": MIXED})
    np.testing.assert_array_equal(answer, next(iter(judged(bundle)[1].values())))
    assert sum(rows) == 0


@pytest.mark.parametrize(("end", "count"), [("softmax", len(MIXED)), ("sigmoid", 0)])
def test_a_test_of_the_logits_level_runs_the_original_but_after_a_sigmoid(
    bundle_of: Bundles, end: str, count: int
) -> None:
    """Of two classes by one sigmoid the logits are (0, s), so there the level is known."""
    statistics, decisions = ("residual_margin_gap", "residual_norm"), list[Decision]()
    bundle = bundle_of(end, statistics, SCALES.get(end, 1))
    safe = wrap(session_of(bundle), bundle, on_decision=decisions.append, **OPTIONS)
    rows = rows_of_the_original(safe)
    safe.run(None, {"image": MIXED})
    assert sum(rows) == count
    assert_same(decisions[0], judged(bundle)[0])


@pytest.mark.parametrize(("end", "scale"), [("softmax", 40), ("sigmoid", 1), ("both of a sigmoid", 1)])
def test_only_rows_too_near_0_or_1_run_the_original(bundle_of: Bundles, end: str, scale: float) -> None:
    bundle, decisions = bundle_of(end, scale=scale), list[Decision]()
    safe = wrap(session_of(bundle), bundle, on_decision=decisions.append, **OPTIONS)
    rows = rows_of_the_original(safe)
    (answer,) = safe.run(None, {"image": MIXED})
    assert 0 < sum(rows) < len(MIXED)
    assert len(rows) == 1
    expected, outputs = judged(bundle)
    assert_same(decisions[0], expected)
    np.testing.assert_array_equal(answer, next(iter(outputs.values())))


def test_rows_that_cannot_be_told_apart_are_the_original_s(bundle_of: Bundles) -> None:
    """Logits that differ by less than a probability can say, and the second of which wins, among others."""
    bundle, decisions = bundle_of("softmax", scale=1e-7), list[Decision]()
    safe = wrap(session_of(bundle), bundle, on_decision=decisions.append, **OPTIONS)
    safe.run(None, {"image": MIXED})
    np.testing.assert_array_equal(decisions[0].original_labels, judged(bundle)[0].original_labels)


def test_one_input_and_none_are_answered(bundle_of: Bundles) -> None:
    for end in RECOVERED:
        bundle = bundle_of(end)
        safe = wrap(session_of(bundle), bundle, **OPTIONS)
        for n in (0, 1):
            (*_, answer) = safe.run(None, {"image": MIXED[:n]})
            assert len(answer) == n


def test_a_callable_that_gives_probabilities_does_not_run_the_original(bundle_of: Bundles) -> None:
    for end in ("softmax", "log-softmax", "sigmoid"):
        bundle = bundle_of(end, scale=SCALES.get(end, 1))
        safe = wrap(callable_of(bundle), bundle, **OPTIONS)
        rows = rows_of_the_original(safe)
        np.testing.assert_allclose(safe(MIXED), next(iter(judged(bundle)[1].values())), rtol=1e-6, atol=1e-6)
        assert sum(rows) == 0


def test_probabilities_of_half_precision_run_the_original_whatever_their_dtype(bundle_of: Bundles) -> None:
    bundle = bundle_of("softmax")
    predict, decisions = callable_of(bundle), list[Decision]()
    safe = wrap(
        lambda x: predict(x).astype(np.float16).astype(np.float64), bundle, on_decision=decisions.append, **OPTIONS
    )
    rows = rows_of_the_original(safe)
    safe(MIXED)
    assert rows == [len(MIXED)]
    assert_same(decisions[0], judged(bundle)[0])


def test_a_limit_that_a_callable_puts_on_probabilities_hides_no_margin(tiny_bundle: Path) -> None:
    """The probes are above it, and the bundle's model has logits alone, so only the rows themselves show it."""
    predict, decisions = callable_of(tiny_bundle), list[Decision]()

    def limited(x: Array) -> Array:
        answer: Array = np.maximum(softmax(predict(x), axis=1), np.float32(LOW_LIMIT))
        return answer

    safe = wrap(limited, tiny_bundle, on_decision=decisions.append, **OPTIONS)
    rows = rows_of_the_original(safe)
    safe(MIXED)
    assert 0 < sum(rows) < len(MIXED)
    assert_same(decisions[0], judged(tiny_bundle)[0])


def test_a_predictor_that_writes_to_its_input_is_judged_by_what_was_given(bundle_of: Bundles) -> None:
    bundle, decisions = bundle_of("label"), list[Decision]()
    predict = callable_of(bundle)

    def writes(x: Array) -> Array:
        answer = predict(x)
        x[:] = 0
        return answer

    safe = wrap(writes, bundle, on_decision=decisions.append, **OPTIONS)
    given = MIXED.copy()
    safe(given)
    assert_same(decisions[0], judged(bundle)[0])
    np.testing.assert_array_equal(given, MIXED)
