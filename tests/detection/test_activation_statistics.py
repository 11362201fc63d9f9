"""The statistics of the original network's activations and of its own margin, and what a flag by them says."""

import numpy as np
import pytest
from scipy.special import logsumexp

from mmguard.detection.margins import Readings
from mmguard.detection.mmdf import Criterion, MmdfTest
from mmguard.detection.null import GaussianNull
from mmguard.detection.statistics import (
    READ_ACTIVATIONS,
    STATISTICS,
    ActivationDistance,
    ActivationExcess,
    MarginGap,
    OriginalMargin,
    ResidualMarginGap,
    SupportedMarginGap,
)
from mmguard.types import FloatArray
from tests.detection.test_mmdf import clean_logits

NULL = GaussianNull(0, 1, 100)


def readings(n: int, seed: int = 0, sites: int = 3) -> Readings:
    """Clean readings of 4 classes, with log distances and a log excess that are Gaussian."""
    activations = np.exp(np.random.default_rng(seed).normal(3, 0.5, (n, sites + 1)))
    return Readings(*clean_logits(n, 4, seed), activations)


def with_distances(distances: FloatArray) -> Readings:
    """Those distances (N, S) and no excess, of inputs whose logits clipping leaves as they are."""
    logits = np.tile([2.0, 0.0], (len(distances), 1))
    return Readings(logits, logits, np.pad(distances, ((0, 0), (0, 1))))


def test_the_activation_distance_is_the_log_sum_exp_of_standardised_log_distances() -> None:
    clean, unseen = readings(100), readings(50, seed=1)
    logs = np.log(clean.activations[:, :3])
    scores = (np.log(unseen.activations[:, :3]) - logs.mean(axis=0)) / logs.std(axis=0, ddof=1)
    statistic = ActivationDistance.fit(clean)
    np.testing.assert_allclose(statistic(unseen), logsumexp(scores, axis=1), rtol=1e-12)


def test_the_activation_excess_is_the_logarithm_of_1_plus_the_last_column() -> None:
    unseen = readings(50, seed=1)
    statistic = ActivationExcess.fit(readings(100))
    assert statistic == ActivationExcess(), "nothing is fitted"
    np.testing.assert_allclose(statistic(unseen), np.log(1 + unseen.activations[:, 3]), rtol=1e-12)
    assert statistic(with_distances(np.full((2, 3), 1e9))).tolist() == [0, 0]


def test_large_scores_do_not_overflow() -> None:
    statistic = ActivationDistance((0.0, 0.0), (1e-3, 1e-3))
    read = with_distances(np.array([[np.e, np.e], [np.e, 1.0], [1 / np.e, 1 / np.e]]))
    np.testing.assert_allclose(statistic(read), [1000 + np.log(2), 1000, -1000 + np.log(2)], rtol=1e-12)


def test_a_distance_and_an_excess_of_0_have_a_finite_score() -> None:
    clean = readings(100)
    nothing = Readings(clean.original[:1], clean.clipped[:1], np.zeros((1, 4)))
    for name in sorted(READ_ACTIVATIONS):
        fitted = STATISTICS[name].fit(clean)
        assert np.isfinite(fitted(nothing)).all()
        assert fitted(nothing)[0] <= fitted(clean).max()


def test_a_site_whose_distances_are_all_equal_is_not_divided_by_0() -> None:
    clean = readings(100)
    equal = Readings(clean.original, clean.clipped, np.full((100, 4), 5.0))
    assert ActivationDistance.fit(equal).stds == (1.0,) * 3
    np.testing.assert_allclose(ActivationDistance.fit(equal)(equal), np.log(3), rtol=1e-12)


def test_the_supported_gap_is_the_gap_plus_what_the_last_distance_is_above_its_mean() -> None:
    clean, unseen = readings(100), readings(50, seed=1)
    statistic = SupportedMarginGap.fit(clean)
    gap = ResidualMarginGap.fit(clean)
    last = np.log(clean.activations[:, 2])
    above = (np.log(unseen.activations[:, 2]) - last.mean()) / last.std(ddof=1)
    expected = gap(unseen) / gap(clean).std(ddof=1) + np.where(above > 0, above, 0)
    np.testing.assert_allclose(statistic(unseen), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(statistic.gap(unseen), gap(unseen) / gap(clean).std(ddof=1), rtol=1e-9, atol=1e-9)


def test_a_distance_never_conceals_a_gap() -> None:
    clean, unseen = readings(100), readings(400, seed=1)
    statistic = SupportedMarginGap.fit(clean)
    assert (statistic(unseen) >= statistic.gap(unseen)).all()
    near = Readings(unseen.original, unseen.clipped, unseen.activations / 1e6)
    np.testing.assert_array_equal(statistic(near), statistic.gap(unseen))


def test_the_original_s_margin_is_that_of_its_decision() -> None:
    read = Readings(np.array([[5.0, 2.0, 1.0], [0.0, 1.0, 4.0]]), np.zeros((2, 3)))
    assert OriginalMargin.fit(read)(read).tolist() == [3.0, 3.0]
    criterion, _ = Criterion.fit("original_margin", readings(100), None)
    doubled = Readings(2 * read.original, read.clipped)
    assert (criterion.scores(doubled) > criterion.scores(read)).all(), "larger is more suspicious"


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_the_null_of_a_criterion_is_that_of_the_other_parts(name: str) -> None:
    clean = readings(90)
    parts = np.array_split(np.random.default_rng(0).permutation(90), 3)
    values = np.empty(90)
    for part in parts:
        values[part] = STATISTICS[name].fit(clean.rows(np.setdiff1d(np.arange(90), part)))(clean.rows(part))
    criterion, scores = Criterion.fit(name, clean, 1.0, parts)
    # a power of 1 is no transform, so the scores are the standardised values
    np.testing.assert_allclose(scores, (values - values.mean()) / values.std(ddof=1), rtol=1e-9, atol=1e-9)
    assert criterion.statistic == STATISTICS[name].fit(clean)


def test_the_readings_of_some_rows_are_those_rows_of_the_readings() -> None:
    read = readings(20)
    rows = np.arange(20) % 3 == 0
    some = read.rows(rows)
    for name in ("original", "clipped", "activations", "decisions", "margin_gaps"):
        np.testing.assert_array_equal(getattr(some, name), getattr(read, name)[rows])
    assert Readings(read.original, read.clipped).rows(rows).activations.shape == (rows.sum(), 0)


def test_the_largest_score_explains_a_flag() -> None:
    statistics = (MarginGap((0.0, 0.0), 0.0), ActivationDistance((0.0,), (1.0,)), ActivationExcess(), OriginalMargin())
    test = MmdfTest(tuple(Criterion(each, NULL) for each in statistics), 0.005, 0)
    # the gaps are 9, 1, 1, 1 and 0, the log distances 1, 9, 1, 1 and 0, the log excesses 1, 1, 9, 1 and 0, and the
    # margins 8, 8, 8, 10 and 0.1
    original = np.array([[8.0, 0.0], [8.0, 0.0], [8.0, 0.0], [10.0, 0.0], [0.1, 0.0]])
    clipped = original - np.array([[9.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    logs = np.array([[1.0, 1.0], [9.0, 1.0], [1.0, 9.0], [1.0, 1.0], [0.0, 0.0]])
    verdicts = test(original, clipped, np.exp(logs) - [0, 1])
    kinds = [statistics[place].evidence for place in verdicts.evidence[:4]]
    assert kinds == ["confidence", "activations", "activations", "margin"]
    assert verdicts.evidence[:4].tolist() == [0, 1, 2, 3]
    assert verdicts.improbable.tolist() == [True, True, True, True, False]


def test_a_supported_gap_says_whether_the_logits_alone_lost_confidence() -> None:
    statistic = SupportedMarginGap((0.0, 0.0), 0.0, 1.0, 0.0, 1.0)
    logits = np.array([[4.0, 0.0], [4.0, 0.0]])
    clipped = logits - np.array([[0.5, 0.0], [-0.5, 0.0]])
    verdicts = MmdfTest((Criterion(statistic, NULL),), 0.005, 0)(logits, clipped, np.exp([[9.0, 0.0], [9.0, 0.0]]))
    assert verdicts.flagged.tolist() == [True, True]
    assert verdicts.lost_confidence.tolist() == [True, False]
