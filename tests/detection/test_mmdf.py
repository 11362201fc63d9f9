"""The statistics of both networks' logits, and the level, reasons and p-values of the MMDF test."""

import numpy as np
import pytest
from scipy.stats import norm

from mmguard.detection.margins import Readings, margin_gap
from mmguard.detection.mmdf import Criterion, MmdfTest
from mmguard.detection.null import GaussianNull
from mmguard.detection.statistics import (
    STATISTICS,
    CentredResidualNorm,
    MarginGap,
    ResidualMarginGap,
    ResidualNorm,
)
from mmguard.errors import InferenceError, OptionError
from mmguard.types import FloatArray

PLAIN = Criterion(MarginGap((0.0, 0.0), 0.0), GaussianNull(0, 1, 100))


def clean_logits(n: int, k: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Logits of a network, and of one that shrinks them by a fifth and moves each class, give or take 0.1."""
    generator = np.random.default_rng(seed)
    original = generator.normal(size=(n, k)) + 6 * np.eye(k)[generator.integers(0, k, n)]
    return original, 0.8 * original + np.linspace(-1, 1, k) + generator.normal(0, 0.1, (n, k))


def clean_readings(n: int, k: int, seed: int) -> Readings:
    """Those logits, and distances at two sites and an excess."""
    return Readings(*clean_logits(n, k, seed), np.random.default_rng(seed).chisquare(5, (n, 3)))


def test_an_empty_batch_goes_through() -> None:
    nothing, clean = np.zeros((0, 2), np.float32), clean_readings(50, 2, 1)
    unread = np.zeros((0, 3), np.float32)
    criteria = tuple(Criterion(kind.fit(clean), GaussianNull(0, 1, 100)) for kind in STATISTICS.values())
    verdicts = MmdfTest(criteria, 0.005, 1)(nothing, nothing, unread)
    assert {array.shape for array in vars(verdicts).values()} == {(0,)}


@pytest.mark.parametrize(
    ("gap", "agree", "disagreement_theta", "disagreement", "improbable"),
    [
        (0.0, True, 1.0, False, False),
        (9.0, True, 1.0, False, True),
        (1.0, False, 1.0, True, False),
        (9.0, False, 1.0, True, True),
        (1.0, False, 0.05, False, False),
        (2.0, False, 0.05, True, False),
    ],
)
def test_the_two_reasons_apart(
    gap: float, agree: bool, disagreement_theta: float, disagreement: bool, improbable: bool
) -> None:
    before = 10.0 if agree else gap / 2
    original, clipped = (np.array([[margin, 0.0]], np.float32) for margin in (before, before - gap))
    verdicts = MmdfTest((PLAIN,), 0.005, disagreement_theta)(original, clipped)
    assert (verdicts.disagreement[0], verdicts.improbable[0]) == (disagreement, improbable)
    assert verdicts.flagged[0] == (disagreement or improbable)
    assert verdicts.p_values[0] == pytest.approx(norm.sf(gap))


def test_the_paper_s_statistic_is_the_margin_gap() -> None:
    original, clipped = clean_logits(50, 4, 1)
    pair = Readings(original, clipped)
    np.testing.assert_array_equal(MarginGap.fit(pair)(pair), margin_gap(original, clipped))


def test_a_pair_holds_the_margins_of_the_original_s_decisions() -> None:
    original, clipped = np.array([[5.0, 2.0, 1.0], [0.0, 1.0, 4.0]]), np.array([[3.0, 4.0, 0.0], [0.0, 1.0, 2.0]])
    pair = Readings(original, clipped)
    assert (pair.original is original, pair.clipped is clipped) == (True, True)
    assert pair.decisions.tolist() == [0, 2]
    assert pair.clipped_decisions.tolist() == [1, 2]
    assert pair.original_margins.tolist() == [3, 3]
    assert pair.clipped_margins.tolist() == [-1, 1]
    assert pair.margin_gaps.tolist() == [4, 2]


@pytest.mark.parametrize("k", [3, 40])
def test_an_expected_gap_leaves_no_residual(k: int) -> None:
    pair = Readings(*clean_logits(4000, k, 11))
    statistic = ResidualMarginGap.fit(pair)
    assert statistic.slope == pytest.approx(0.2, abs=0.1)
    residuals = statistic(pair)
    assert np.std(residuals) < 0.6 * np.std(pair.margin_gaps)
    assert abs(np.mean(residuals)) < 0.1


def test_the_expected_gap_is_a_line_for_each_decision() -> None:
    original = np.array([[4.0, 0.0], [0.0, 4.0]], np.float32)
    clipped = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    np.testing.assert_allclose(
        ResidualMarginGap((2.0, -1.0), 0.25)(Readings(original, clipped)), [3 - 2 - 1, 3 + 1 - 1]
    )


def test_a_class_that_is_missing_is_expected_to_be_like_the_others() -> None:
    original = np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
    clipped = original - np.array([[1.0, 0, 0], [1.2, 0, 0], [0, 3.0, 0], [0, 3.2, 0]])
    statistic = ResidualMarginGap.fit(Readings(original, clipped))
    first, second, missing = statistic.intercepts
    assert statistic.slope == pytest.approx(0.2)
    assert missing == pytest.approx(1.8)
    assert first < 1.8 < second


def test_equal_margins_give_no_slope() -> None:
    original = np.array([[3.0, 0.0], [3.0, 0.0]])
    statistic = ResidualMarginGap.fit(Readings(original, np.array([[2.0, 0.0], [1.0, 0.0]])))
    assert (statistic.slope, statistic.intercepts) == (0.0, (1.5, 1.5))


def test_the_residual_norm_is_the_distance_from_the_lines() -> None:
    pair = Readings(np.array([[1.0, 2.0]]), np.array([[4.0, 7.0]]))
    assert ResidualNorm((0.5, 1.0), 0.5)(pair) == pytest.approx([np.hypot(4 - 1, 7 - 2)])


def test_the_centred_residual_norm_ignores_the_level_of_logits() -> None:
    original, clipped = clean_logits(200, 4, 7)
    levels = np.random.default_rng(8).normal(0, 50, (2, 200, 1))
    pair, shifted = Readings(original, clipped), Readings(original + levels[0], clipped + levels[1])
    fitted, moved = CentredResidualNorm.fit(pair), CentredResidualNorm.fit(shifted)
    assert moved.slope == pytest.approx(fitted.slope)
    np.testing.assert_allclose(fitted(shifted), fitted(pair), rtol=1e-9, atol=1e-9)
    by_hand = (clipped - clipped.mean(axis=1, keepdims=True)) - fitted.slope * (
        original - original.mean(axis=1, keepdims=True)
    )
    expected = np.linalg.norm(by_hand - by_hand.mean(axis=0), axis=1)
    np.testing.assert_allclose(fitted(pair), expected, rtol=1e-9)


def test_the_residual_norm_sees_changes_that_leave_the_margin_as_it_was() -> None:
    names = ("margin_gap", "residual_margin_gap", "residual_norm", "centred_residual_norm")
    criteria = {name: Criterion.fit(name, Readings(*clean_logits(500, 5, 3)), None)[0] for name in names}
    unseen, changed = clean_logits(200, 5, 4)
    third = np.argsort(-unseen, axis=1)[:, 2]
    changed[np.arange(200), third] -= 3
    scores = {name: np.median(criterion.scores(Readings(unseen, changed))) for name, criterion in criteria.items()}
    assert scores["residual_norm"] > 5
    assert abs(scores["margin_gap"]) < 1
    assert abs(scores["residual_margin_gap"]) < 1


def of_kind(criteria: tuple[Criterion, ...], theta: float, scores: FloatArray, empirical: bool) -> MmdfTest:
    """The test without a flag for disagreement, by ranks or by the fit."""
    if empirical:
        return MmdfTest(criteria, theta, 0, "empirical", tuple(np.sort(scores).tolist()))
    return MmdfTest(criteria, theta, 0)


@pytest.mark.parametrize("empirical", [False, True])
def test_the_test_of_several_criteria_keeps_its_level(empirical: bool) -> None:
    read = Readings(*clean_logits(2000, 5, 5))
    criteria = tuple(Criterion.fit(name, read, None)[0] for name in ("residual_margin_gap", "residual_norm"))
    scores = np.max([criterion.scores(read) for criterion in criteria], axis=0)
    test = of_kind(criteria, 0.05, scores, empirical)
    verdicts = test(*clean_logits(20_000, 5, 6))
    assert (0.035 if empirical else 0.02) < verdicts.improbable.mean() < 0.065
    assert not verdicts.disagreement.any()
    np.testing.assert_array_equal(verdicts.improbable, verdicts.p_values <= 0.05)
    assert 0.4 < np.mean(verdicts.p_values) < 0.65


@pytest.mark.parametrize("empirical", [False, True])
def test_many_classes_with_few_inputs_keep_the_level_only_with_a_cross_fitted_null(empirical: bool) -> None:
    rates = {}
    for parts in (1, 5):
        flagged = [flagged_share(parts, seed, empirical) for seed in range(6)]
        rates[parts] = np.mean(flagged)
    assert rates[5] < 0.035
    assert rates[1] > 0.035 > rates[5], "without parts, the statistic fits the inputs too well"


def flagged_share(parts: int, seed: int, empirical: bool, classes: int = 300, theta: float = 0.025) -> float:
    """Clean inputs that are flagged by criteria of as many clean inputs as there are classes."""
    read = Readings(*clean_logits(classes, classes, 100 + seed))
    rows = np.array_split(np.random.default_rng(seed).permutation(classes), parts) if parts > 1 else []
    fitted = [Criterion.fit(name, read, None, rows) for name in ("residual_margin_gap", "residual_norm")]
    scores = np.max([own for _, own in fitted], axis=0)
    criteria = tuple(criterion for criterion, _ in fitted)
    test = of_kind(criteria, theta, scores, empirical)
    return float(test(*clean_logits(4000, classes, 200 + seed)).improbable.mean())


def test_two_criteria_cost_what_sidak_says() -> None:
    original, clipped = np.array([[10.0, 0.0]]), np.array([[7.0, 0.0]])
    one, two = (MmdfTest((PLAIN,) * m, 0.005, 0)(original, clipped).p_values[0] for m in (1, 2))
    assert two == pytest.approx(1 - (1 - one) ** 2)
    far = MmdfTest((PLAIN,) * 2, 0.005, 0)(original, clipped - np.array([[30.0, 0.0]])).p_values[0]
    assert far == pytest.approx(2 * norm.sf(33), rel=1e-9)


def test_empirical_p_values_need_enough_clean_inputs() -> None:
    MmdfTest((PLAIN,), 0.005, 0, "empirical", (0.0,) * 199)
    with pytest.raises(OptionError, match="198 clean inputs"):
        MmdfTest((PLAIN,), 0.005, 0, "empirical", (0.0,) * 198)
    MmdfTest((PLAIN,), 0.005, 0, "bounded", (1.0,) * 20)


def test_a_bounded_p_value_is_the_larger_of_the_fitted_and_the_ranked_one() -> None:
    clean = tuple([0.0] * 98 + [4.0])
    gaps = np.array([1.0, 3.0, 4.0, 5.0, 40.0])
    original = np.stack([np.full(5, 20.0), np.zeros(5)], axis=1)
    clipped = original - np.stack([gaps, np.zeros(5)], axis=1)
    bounded = MmdfTest((PLAIN,), 0.005, 0, "bounded", clean)(original, clipped).p_values
    np.testing.assert_allclose(bounded, [norm.sf(1), 0.02, 0.02, 0.01 * 0.8**3, 0.01 * 0.1**3])
    assert MmdfTest((PLAIN,), 0.005, 0)(original, clipped).p_values == pytest.approx(norm.sf(gaps))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("row", [0, 2])
def test_readings_that_are_not_finite_are_never_taken_for_clean(value: float, part: int, row: int) -> None:
    clean = clean_readings(3, 4, 0)
    read = (clean.original, clean.clipped, clean.activations)
    statistics = [kind.fit(clean) for kind in STATISTICS.values()]
    read[part][row, 1] = value
    for statistic in statistics:
        test = MmdfTest((Criterion(statistic, GaussianNull(0, 1, 100)),), 0.005, 0)
        with pytest.raises(InferenceError, match="needs finite logits"):
            test(*read)


def test_the_rank_among_clean_scores_is_exact_for_fresh_clean_inputs() -> None:
    """A level of θ over many draws of clean inputs, where the criteria were fitted elsewhere."""
    flagged, inputs = 0, 0
    for seed in range(40):
        clean = PLAIN.scores(Readings(*clean_logits(99, 2, 100 + seed)))
        test = of_kind((PLAIN,), 0.05, clean, empirical=True)
        flagged, inputs = flagged + int(test(*clean_logits(500, 2, 1000 + seed)).flagged.sum()), inputs + 500
    assert flagged / inputs == pytest.approx(0.05, abs=0.015)


def test_a_decision_is_distrusted_where_it_lost_more_confidence_than_expected() -> None:
    residual_norm = Criterion(ResidualNorm((0.0, 0.0), 1.0), GaussianNull(0, 0.01, 100))
    original = np.array([[4.0, 0.0], [4.0, 0.0]], np.float32)
    clipped = np.array([[3.0, 0.0], [6.0, 0.0]], np.float32)
    verdicts = MmdfTest((PLAIN, residual_norm), 0.005, 0)(original, clipped)
    np.testing.assert_array_equal(verdicts.flagged, [True, True])
    np.testing.assert_array_equal(verdicts.lost_confidence, [True, False])
    assert MmdfTest((residual_norm,), 0.005, 0)(original, clipped).lost_confidence.all(), (
        "without a margin criterion nothing supports the decision"
    )


def test_a_decision_is_distrusted_only_where_every_gap_is_above_its_mean() -> None:
    original, clipped = np.array([[4.0, 0.0]] * 3), np.array([[4.0, 0.0], [5.0, 0.0], [3.0, 0.0]])
    gaps = tuple(Criterion(MarginGap((0.0, 0.0), 0.0), GaussianNull(mean, 1, 100)) for mean in (-2.0, 0.0))
    np.testing.assert_array_equal(MmdfTest(gaps, 0.005, 0)(original, clipped).lost_confidence, [False, False, True])


def test_every_disagreement_flags_by_the_papers_rule_and_a_level_is_reached_by_its_equal() -> None:
    original, clipped = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])
    test = MmdfTest((PLAIN,), 0.25, 1.0, "empirical", (9.0, 9.0, 9.0))
    verdicts = test(original, clipped)
    np.testing.assert_array_equal(verdicts.p_values, [1.0, 1.0])
    np.testing.assert_array_equal(verdicts.disagreement, [True, False])
    assert test(original, original - np.array([20.0, 0.0])).improbable.all(), "p is theta itself"
