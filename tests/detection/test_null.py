import numpy as np
import pytest
from scipy.stats import binom, norm, yeojohnson

from mmguard.detection.margins import exclude_class, margin, margin_gap
from mmguard.detection.null import (
    MIN_NULL_SAMPLES,
    GaussianNull,
    check_level,
    empirical_p_values,
    ranked_score,
    ranked_tail,
    yeo_johnson,
)
from mmguard.errors import CleanSetError, OptionError

LOGITS = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 4.5]], np.float32)


def random_logits(n: int, k: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 3, (n, k)).astype(np.float32)


def test_margin_is_the_logit_minus_the_best_other() -> None:
    np.testing.assert_array_equal(margin(LOGITS, np.array([0, 2])), [1.0, -0.5])
    assert margin(LOGITS, np.array([0, 2])).dtype == np.float64


@pytest.mark.parametrize("k", [2, 3, 10])
def test_margin_agrees_with_its_definition(k: int) -> None:
    logits, labels = random_logits(50, k, 0), np.random.default_rng(1).integers(0, k, 50)
    expected = [
        row[label] - max(np.delete(row, label)) for row, label in zip(logits.astype(float), labels, strict=True)
    ]
    np.testing.assert_array_equal(margin(logits, labels), expected)


def test_margin_gap_is_what_the_original_s_decision_loses() -> None:
    clipped = np.array([[1.0, 1.5, 0.0], [0.0, 6.0, 4.5]], np.float32)
    np.testing.assert_array_equal(margin_gap(LOGITS, clipped), [1.0 - -0.5, 0.5 - 1.5])


def test_equal_networks_have_no_gap() -> None:
    logits = random_logits(20, 5, 2)
    np.testing.assert_array_equal(margin_gap(logits, logits), 0)


def test_an_empty_batch_goes_through() -> None:
    nothing = np.zeros((0, 3), np.float32)
    assert margin_gap(nothing, nothing).shape == (0,)
    assert exclude_class(nothing, np.zeros(0, np.int64)).shape == (0, 3)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_an_excluded_class_is_last_and_the_others_keep_their_values(k: int) -> None:
    logits, labels = random_logits(50, k, 3), np.random.default_rng(4).integers(0, k, 50)
    excluded = exclude_class(logits, labels)
    np.testing.assert_array_equal(excluded.argmin(axis=1), labels)
    others = np.arange(k) != labels[:, None]
    np.testing.assert_array_equal(excluded[others], logits[others])
    np.testing.assert_array_equal(excluded[~others], np.where(others, logits, np.inf).min(axis=1) - 1)
    assert excluded.dtype == logits.dtype
    assert not np.shares_memory(excluded, logits)


def test_the_paper_s_null_is_the_sample_s_mean_and_deviation() -> None:
    gaps = np.random.default_rng(5).normal(2, 3, 400)
    null = GaussianNull.fit(gaps, power=1)
    assert (null.mean, null.std) == pytest.approx((np.mean(gaps), np.std(gaps, ddof=1)))
    assert (null.n, null.power) == (400, 1)


def test_the_fitted_null_is_the_most_likely_yeo_johnson_normal() -> None:
    gaps = np.random.default_rng(5).gamma(2, 1.5, 400) - 1
    null = GaussianNull.fit(gaps)
    transformed, power = yeojohnson(gaps / null.scale)
    assert null.power == pytest.approx(power)
    assert (null.mean, null.std) == pytest.approx((np.mean(transformed), np.std(transformed, ddof=1)))


SHAPES = {
    "gaussian": lambda generator, n: generator.normal(size=n),
    "lognormal": lambda generator, n: np.exp(0.6 * generator.normal(size=n)),
    "gamma": lambda generator, n: generator.gamma(2, size=n),
}


@pytest.mark.parametrize("unit", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_fitted_null_flags_about_theta_whatever_the_unit_and_the_skew(shape: str, unit: float) -> None:
    # Nothing is shaped on these gaps, so what is tested is the fit alone: the mean rate over 20 fits on 500 gaps. The
    # rates of single fits have a standard deviation of some 0.003, their mean one of 0.0007.
    generator, theta = np.random.default_rng(11), 0.005
    rates = []
    for _ in range(20):
        null = GaussianNull.fit(SHAPES[shape](generator, 500) * unit)
        rates.append(float((null.p_values(SHAPES[shape](generator, 20_000) * unit) <= theta).mean()))
    assert 0.003 <= np.mean(rates) <= 0.009


@pytest.mark.parametrize("sign", [1, -1])
def test_a_power_that_would_bound_the_p_values_is_not_fitted(sign: int) -> None:
    gaps = sign * np.exp(np.random.default_rng(5).normal(0, 2, 400))
    assert not 0 <= yeojohnson(gaps)[1] <= 2
    null = GaussianNull.fit(gaps)
    assert null.power == (0 if sign > 0 else 2)
    assert null.p_values(np.array([1e9]))[0] < 1e-6 < 1 - 1e-6 < null.p_values(np.array([-1e9]))[0]


@pytest.mark.parametrize("power", [0, 0.3, 1, 1.7, 2])
def test_the_transform_is_yeo_and_johnson_s(power: float) -> None:
    x = np.linspace(-50, 50, 401)
    transformed = yeo_johnson(x, power)
    np.testing.assert_allclose(transformed, yeojohnson(x, power), rtol=1e-12)
    assert (np.diff(transformed) > 0).all()
    np.testing.assert_allclose(yeo_johnson(x, 1), x, rtol=1e-12)


@pytest.mark.parametrize("power", [0.4, 1, 1.6])
def test_p_values_are_the_upper_tail_of_the_transformed_gaussian(power: float) -> None:
    gaps = np.linspace(-30, 60, 400)
    expected = norm.sf(yeojohnson(gaps, power), loc=1.5, scale=2.5)
    np.testing.assert_allclose(GaussianNull(1.5, 2.5, 100, power).p_values(gaps), expected, rtol=1e-9)


@pytest.mark.parametrize(("theta", "z"), [(0.005, 2.5758293), (0.05, 1.6448536)])
def test_the_level_is_a_number_of_deviations(theta: float, z: float) -> None:
    null = GaussianNull(1.5, 2.5, 100)
    below, above = null.p_values(1.5 + 2.5 * np.array([z - 1e-6, z + 1e-6]))
    assert above < theta < below


def test_p_values_of_gaussian_gaps_are_uniform() -> None:
    gaps = np.random.default_rng(6).normal(1, 2, 20_000)
    p_values = GaussianNull(1, 2, 100).p_values(gaps)
    for level in (0.005, 0.05, 0.5):
        low, high = binom.interval(1 - 1e-6, len(gaps), level)
        assert low <= (p_values <= level).sum() <= high


def test_too_few_gaps_or_equal_ones_make_no_null() -> None:
    gaps = np.arange(MIN_NULL_SAMPLES, dtype=float)
    GaussianNull.fit(gaps)
    with pytest.raises(CleanSetError, match="at least 20 clean inputs, got 19"):
        GaussianNull.fit(gaps[1:])
    with pytest.raises(CleanSetError, match="the margin of every clean input by the same amount"):
        GaussianNull.fit(np.ones(50))


@pytest.mark.parametrize("n", [19, 199, 500])
@pytest.mark.parametrize("ties", [False, True])
def test_empirical_p_values_of_exchangeable_inputs_are_valid(n: int, ties: bool) -> None:
    """P(p ≤ θ) ≤ θ, and without ties it is floor(θ (n + 1)) / (n + 1)."""
    generator, runs = np.random.default_rng(21), 20_000
    values = generator.standard_cauchy((runs, n + 1))
    if ties:
        values = np.round(values)
    p_values = np.array([empirical_p_values(row[:1], np.sort(row[1:]))[0] for row in values])
    for theta in (0.005, 0.05, 0.2, 0.5):
        exact = np.floor(theta * (n + 1) + 1e-9) / (n + 1)
        low, high = binom.interval(1 - 1e-6, runs, exact)
        seen = (p_values <= theta + 1e-12).sum()
        assert seen <= high
        assert ties or seen >= low


def test_an_empirical_p_value_counts_the_input_itself() -> None:
    clean = np.array([1.0, 2.0, 2.0, 5.0])
    values = np.array([0.0, 2.0, 2.5, 5.0, 9.0])
    np.testing.assert_allclose(empirical_p_values(values, clean), [1, 4 / 5, 2 / 5, 2 / 5, 1 / 5])


def test_a_ranked_tail_is_the_rank_up_to_the_largest_clean_score_and_falls_by_its_cube_beyond() -> None:
    clean = np.array([-1.0, 0.5, 2.0])
    scores = np.array([-5.0, 0.5, 1.0, 2.0, 4.0, 20.0])
    np.testing.assert_allclose(ranked_tail(scores, clean), [1, 3 / 4, 2 / 4, 2 / 4, 1 / 4 / 8, 1 / 4 / 1000])


@pytest.mark.parametrize("n", [20, 50, 199, 500])
@pytest.mark.parametrize("degrees", [1, 3, 30])
def test_a_ranked_tail_keeps_the_level_where_scores_fall_no_slower_than_t_of_three(n: int, degrees: int) -> None:
    """A heavier tail, as of 1 degree, reaches a level that is too small for ranks with at most 1 / (1 + n)."""
    generator, runs = np.random.default_rng(31), 10_000
    values = generator.standard_t(degrees, (runs, n + 1))
    p_values = np.array([ranked_tail(row[:1], np.sort(row[1:]))[0] for row in values])
    for theta in (0.005, 0.05):
        valid = theta >= 1 / (1 + n)
        allowed = theta if valid else 2 * theta if degrees >= 3 else 1 / (1 + n)
        assert (p_values <= theta).sum() <= binom.isf(1e-6, runs, allowed)


def test_a_level_that_so_few_inputs_cannot_reach_is_refused() -> None:
    check_level(0.005, 199)
    with pytest.raises(OptionError, match=r"theta 0.005 is below 0.00503, .* 198 clean inputs .* provide at least 199"):
        check_level(0.005, 198)


@pytest.mark.parametrize("theta", [0.001, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [20, 99, 199])
def test_a_ranked_score_is_where_a_ranked_tail_reaches_the_level(theta: float, n: int) -> None:
    clean = np.sort(np.random.default_rng(n).normal(size=n))
    score = ranked_score(theta, clean)
    below, above = ranked_tail(score * (1 + np.array([-1e-9, 1e-9])), clean)
    assert above <= theta * (1 + 1e-6)
    assert below > theta * (1 - 1e-6)
