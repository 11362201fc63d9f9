import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.metrics import auroc, threshold_at, true_positive_rate_at

# Few distinct values, so that ties are the rule; rates that counts divided by n hit exactly, and others.
scores = st.lists(st.integers(-3, 3), min_size=1, max_size=30).map(lambda values: np.array(values, np.float64))
rates = st.one_of(st.floats(0, 1), st.builds(lambda k, n: min(k, n) / n, st.integers(0, 30), st.integers(1, 30)))


def array(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


def flagged(values: NDArray[np.float64], threshold: float) -> float:
    return sum(float(value) > threshold for value in values) / len(values)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0, 1 / 4), (0.19, 1 / 4), (0.2, 2 / 4), (0.39, 2 / 4), (0.4, 3 / 4), (0.8, 3 / 4), (0.99, 3 / 4), (1, 1)],
)
def test_true_positive_rate_by_hand(rate: float, expected: float) -> None:
    clean, triggered = array(5, 1, 4, 2, 3), array(1, 3.5, 4.5, 6)
    assert true_positive_rate_at(clean, triggered, rate) == expected


def test_inputs_that_tie_are_flagged_together_or_not_at_all() -> None:
    clean = array(0, 0, 0, 0, 0, 0, 0, 0, 1, 1)
    assert true_positive_rate_at(clean, array(1, 1, 1), 0.1) == 0
    assert true_positive_rate_at(clean, array(1, 1, 2), 0.1) == 1 / 3
    assert true_positive_rate_at(clean, array(1, 1, 1), 0.2) == 1
    assert true_positive_rate_at(clean, array(0, 0, 1), 0.5) == 1 / 3


def test_a_rate_that_counts_hit_exactly_is_used_up() -> None:
    clean = np.arange(100.0)
    assert 0.29 * 100 < 29
    assert threshold_at(clean, 0.29) == 70
    assert threshold_at(clean, 0.005) == 99


def test_no_threshold_comes_from_no_scores() -> None:
    with pytest.raises(ValueError, match=r"expected scores of clean inputs .* got none"):
        threshold_at(array(), 0.01)


@given(scores, scores, rates)
def test_true_positive_rate_is_the_best_of_all_thresholds(
    clean: NDArray[np.float64], triggered: NDArray[np.float64], rate: float
) -> None:
    thresholds = [-np.inf, *clean, *triggered]
    best = max(flagged(triggered, each) for each in thresholds if flagged(clean, each) <= rate)
    assert true_positive_rate_at(clean, triggered, rate) == best


@given(scores, rates)
def test_a_lower_threshold_would_flag_too_many(clean: NDArray[np.float64], rate: float) -> None:
    threshold = threshold_at(clean, rate)
    assert flagged(clean, threshold) <= rate
    assert all(flagged(clean, each) > rate for each in clean if each < threshold)


def test_auroc_by_hand() -> None:
    assert auroc(array(1, 2), array(2, 3)) == (1 + 1 + 0.5 + 1) / 4
    assert auroc(array(0, 1), array(2, 3)) == 1
    assert auroc(array(2, 2), array(2, 2)) == 0.5


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_order(clean: NDArray[np.float64], triggered: NDArray[np.float64]) -> None:
    pairs = [(hot > cold) + (hot == cold) / 2 for hot in triggered for cold in clean]
    assert auroc(clean, triggered) == pytest.approx(np.mean(pairs))
