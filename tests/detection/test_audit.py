"""The audit of maximum margins: right level without a backdoor, power against one, at one scale and at several."""

from collections.abc import Callable

import numpy as np
import pytest

from mmguard.detection.audit import Audit, audit, grubbs
from mmguard.errors import AuditError
from mmguard.types import FloatArray

RANDOM = np.random.default_rng(0)
DRAWS = 2000
ORDINARY = np.array([-6.3, -7.7, -4.1, -4.6, -4.4, -6.8, -2.9, -6.7, -6.2, -4.8])
"""Margins of a clean network's classes under a faint perturbation."""


def one(margins: FloatArray) -> Audit:
    """The audit of a single scale."""
    return audit({"sample": margins})


def planted(value: float, label: int = 3) -> FloatArray:
    """Ordinary margins but one."""
    margins = ORDINARY.copy()
    margins[label] = value
    return margins


def test_a_margin_that_stands_out_is_found_with_its_class() -> None:
    found = one(np.array([20.0, 22.0, 19.0, 55.0, 21.0, 23.0, 18.0, 20.0, 21.0, 22.0]))
    assert found.suspect == 3
    assert found.p_value < 1e-4
    assert found.backdoored


def test_the_p_value_by_hand() -> None:
    x = np.array([1.0, 2.0, 2.5, 4.0, 9.0])
    g = (9 - x.mean()) / x.std(ddof=1)  # 1.69: Grubbs' table has 1.672 for n = 5 at 5 %, 1.602 at 10 %, one-sided
    assert 1.672 < g < 1.715
    assert grubbs(x) == pytest.approx(0.04, abs=0.011)


def test_negative_margins_are_margins() -> None:
    assert not one(ORDINARY).backdoored
    found = one(planted(7.0))
    assert (found.backdoored, found.suspect) == (True, 3)
    assert found.scales["sample"].left_out == ()


@pytest.mark.parametrize("classes", [3, 10, 100])
def test_the_level_holds_where_margins_are_normal(classes: int) -> None:
    fired = [one(RANDOM.normal(-5, 2, classes)).backdoored for _ in range(DRAWS)]
    assert np.mean(fired) == pytest.approx(0.05, abs=0.016), "3.3 standard errors"


@pytest.mark.parametrize("classes", [3, 10, 100])
@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_the_level_holds_over_scales_that_depend_on_each_other(classes: int, alike: float) -> None:
    fired = []
    for _ in range(DRAWS // 2):
        common, own = RANDOM.normal(size=classes), RANDOM.normal(size=(4, classes))
        margins = alike * common + np.sqrt(1 - alike**2) * own
        fired.append(audit({f"scale {number}": row for number, row in enumerate(margins)}).backdoored)
    assert 0.005 < np.mean(fired) < 0.075


@pytest.mark.parametrize("draw", [lambda k: RANDOM.uniform(0, 30, k), lambda k: 30 - RANDOM.gamma(4, 5, k)])
def test_the_level_is_not_exceeded_where_upper_tails_are_lighter(draw: Callable[[int], FloatArray]) -> None:
    assert np.mean([one(draw(10)).backdoored for _ in range(DRAWS)]) < 0.05


@pytest.mark.parametrize("classes", [10, 100])
def test_a_target_far_above_is_nearly_always_found(classes: int) -> None:
    found = []
    for _ in range(200):
        margins = RANDOM.normal(0, 1, classes)
        margins[classes // 2] = 8
        result = one(margins)
        found.append(result.backdoored and result.suspect == classes // 2)
    assert np.mean(found) > 0.95


def test_the_scale_that_alarms_is_named_and_the_others_are_counted() -> None:
    scales = {"sample": ORDINARY + 40, "shared": planted(7.0), "warp": ORDINARY}
    found = audit(scales)
    assert (found.scale, found.suspect, found.backdoored) == ("shared", 3, True)
    assert found.p_value == pytest.approx(3 * one(scales["shared"]).p_value)
    assert [found.scales[name].suspect for name in scales] == [6, 3, 6]
    np.testing.assert_array_equal(found.scales["warp"].margins, ORDINARY)


def test_the_unit_and_the_zero_of_the_margins_do_not_matter() -> None:
    margins = RANDOM.normal(20, 5, 10)
    assert one(margins).p_value == pytest.approx(one(0.01 * margins - 7).p_value)


def test_a_class_near_zero_hides_no_target() -> None:
    margins = np.array([98.0, 35.0, 43.0, 34.0, 40.0, 44.0, 37.0, 37.0, 32.0, 31.0])
    for low in (1e-6, 0.0, -1.0):
        margins[5] = low
        found = one(margins)
        assert found.backdoored
        assert found.suspect == 0


def test_classes_that_the_search_did_not_reach_are_left_out_and_named() -> None:
    far = np.append(planted(7.0), [-300.0, -320.0])
    found = one(far)
    assert found.scales["sample"].left_out == (10, 11)
    assert found.p_value == one(planted(7.0)).p_value
    assert grubbs(far) > 0.05, "they would hide the target"


def test_ordinary_classes_are_rarely_left_out() -> None:
    left_out = [bool(one(RANDOM.normal(0, 1, 10)).scales["sample"].left_out) for _ in range(DRAWS)]
    assert np.mean(left_out) < 0.02


def test_at_least_three_classes_are_compared() -> None:
    found = one(np.array([5.0, 5.1, -1000.0, -1001.0]))
    assert len(found.scales["sample"].left_out) <= 1
    with pytest.raises(AuditError, match="with 2 classes, only the scale orthogonal"):
        one(np.array([5.0, 9.0]))
    with pytest.raises(AuditError, match="contains no maximum margins"):
        audit({})


def test_equal_margins_are_no_sign_and_one_above_equal_ones_is() -> None:
    assert one(np.full(10, 7.0)).p_value == 1
    assert one(np.array([7.0, 7.0, 7.0, 8.0])).p_value < 1e-6


def test_a_class_that_was_reached_is_never_left_out() -> None:
    margins = np.append(ORDINARY + 40, 5.0)
    assert one(margins).scales["sample"].left_out == ()
    assert one(margins - 10).scales["sample"].left_out == (10,)


def test_a_ratio_to_clean_margins_by_hand() -> None:
    found = audit({"orthogonal": np.array([-1.0, 9.5, 2.0])})
    assert found.suspect == 1
    assert found.p_value == pytest.approx(3 * np.exp(-9.5), rel=1e-3)
    assert found.backdoored
    assert audit({"orthogonal": np.array([-1.0, 0.0, -2.0])}).p_value == 1


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_level_holds_where_ratios_are_exponential(classes: int) -> None:
    fired = [audit({"orthogonal": RANDOM.exponential(1, classes)}).backdoored for _ in range(DRAWS)]
    assert np.mean(fired) == pytest.approx(0.05, abs=0.016), "3.3 standard errors"


def test_several_targets_are_found() -> None:
    ratios = np.full(10, 9.0)
    assert one(ratios).p_value == 1, "none stands out from the others"
    assert audit({"sample": ORDINARY, "orthogonal": ratios}).backdoored


def test_two_classes_are_judged_by_their_clean_margins_only() -> None:
    margins = {"sample": np.array([5.0, 900.0]), "orthogonal": np.array([0.1, 9.0])}
    found = audit(margins)
    assert (found.backdoored, found.suspect, list(found.scales)) == (True, 1, ["orthogonal"])
    assert not audit(margins | {"orthogonal": np.array([0.1, 0.5])}).backdoored


def test_no_verdict_says_what_to_do() -> None:
    with pytest.raises(AuditError, match="--no-audit"):
        audit({})
    with pytest.raises(AuditError, match="too short for any scale"):
        audit({}, ("sample", "orthogonal"))
    with pytest.raises(AuditError, match="more --audit-minutes"):
        audit({"sample": np.array([5.0, 9.0])}, ("orthogonal",))
    with pytest.raises(AuditError, match="more clean inputs"):
        audit({"sample": np.array([5.0, 9.0])})
    assert audit({"sample": ORDINARY}, ("warp",)).cut == ("warp",)
