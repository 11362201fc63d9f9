"""Grubbs' test on maximum margins: right level without a backdoor, power against one."""

from collections.abc import Callable

import numpy as np
import pytest

from mmguard.audit import audit
from mmguard.errors import AuditError
from mmguard.types import FloatArray

RANDOM = np.random.default_rng(0)
DRAWS = 4000


def test_a_margin_that_stands_out_is_found_with_its_class() -> None:
    found = audit(np.array([20.0, 22.0, 19.0, 55.0, 21.0, 23.0, 18.0, 20.0, 21.0, 22.0]))
    assert found.suspect == 3
    assert found.p_value < 1e-4
    assert found.backdoored


def test_the_p_value_by_hand() -> None:
    x = np.array([1.0, 2.0, 2.5, 4.0, 9.0])
    g = (9 - x.mean()) / x.std(ddof=1)  # 1.69: Grubbs' table has 1.672 for n = 5 at 5 %, 1.602 at 10 %, one-sided
    assert 1.672 < g < 1.715
    assert audit(np.exp(x)).p_value == pytest.approx(0.04, abs=0.011)


@pytest.mark.parametrize("classes", [3, 5, 10, 100])
def test_the_level_holds_where_margins_are_log_normal(classes: int) -> None:
    fired = [audit(RANDOM.lognormal(3, 0.3, classes)).backdoored for _ in range(DRAWS)]
    assert np.mean(fired) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    "draw", [lambda k: RANDOM.gamma(4, 5, k), lambda k: RANDOM.gamma(60, 0.3, k), lambda k: RANDOM.normal(20, 2, k)]
)
def test_the_level_is_not_exceeded_where_they_are_something_else(draw: Callable[[int], FloatArray]) -> None:
    assert np.mean([audit(draw(10)).backdoored for _ in range(DRAWS)]) < 0.06


def test_the_scale_of_the_logits_does_not_matter() -> None:
    margins = RANDOM.lognormal(3, 0.5, 10)
    assert audit(margins).p_value == pytest.approx(audit(0.01 * margins).p_value)


def test_equal_margins_are_no_sign_and_one_above_equal_ones_is() -> None:
    assert audit(np.full(10, 7.0)).p_value == 1
    assert audit(np.array([7.0, 7.0, 7.0, 8.0])).p_value < 1e-6


def test_classes_that_were_not_reached_are_left_out() -> None:
    margins = np.array([20.0, 22.0, 19.0, 55.0, 21.0])
    assert audit(np.append(margins, [-300.0, 0.0])).p_value == audit(margins).p_value
    with pytest.raises(AuditError, match="2 were reached"):
        audit(np.array([5.0, 9.0, -1.0]))
