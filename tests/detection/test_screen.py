"""The screen: which inputs it holds back, by the closed form of its p-value."""

import numpy as np
import pytest
from scipy.stats import norm

from mmguard.detection.margins import OriginalReadings, Readings, margin
from mmguard.detection.mmdf import Criterion, MmdfTest
from mmguard.detection.screen import Screen
from mmguard.types import FloatArray
from tests.detection.test_mmdf import clean_logits

THETA = 0.005
ALL = ("supported_margin_gap", "residual_norm", "activation_distance", "activation_excess", "original_margin")
OF_THE_ORIGINAL = ALL[2:]


def activations(n: int, seed: int) -> FloatArray:
    """Distances at two sites and an excess, (n, 3), all log-normal."""
    return np.exp(np.random.default_rng(seed).normal(2, 0.4, (n, 3)))


def readings(n: int, seed: int) -> Readings:
    return Readings(*clean_logits(n, 4, seed), activations(n, seed))


def fit(statistics: tuple[str, ...] = ALL, disagreement_theta: float = 0.0) -> MmdfTest:
    clean = readings(800, 0)
    return MmdfTest(tuple(Criterion.fit(name, clean, None)[0] for name in statistics), THETA, disagreement_theta)


def test_the_p_value_is_that_of_the_largest_score_of_the_original() -> None:
    test, unseen = fit(), readings(300, 1)
    screen = Screen.of(test, 0.1)
    assert screen is not None
    scores = np.max([each.scores(unseen) for each in test.criteria[2:]], axis=0)
    expected = 1 - norm.cdf(scores) ** 3
    own = OriginalReadings(unseen.original, unseen.activations)
    np.testing.assert_allclose(screen.p_values(own), expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(screen.held_back(screen.p_values(own)), expected <= 0.1)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_the_share_of_clean_inputs_that_are_held_back(share: float) -> None:
    rates = []
    for seed in range(1, 6):
        screen, unseen = Screen.of(fit(), share), readings(4000, seed)
        assert screen is not None
        rates.append(screen.held_back(screen.p_values(unseen)).mean())
    # the statistics are not independent, so that Šidák's level is an upper limit; the nulls are fitted to 800 inputs
    assert 0.4 * share < np.mean(rates) < 1.3 * share


def test_an_input_with_unusual_activations_is_held_back() -> None:
    screen, unseen = Screen.of(fit(), 0.1), readings(200, 1)
    assert screen is not None
    for column, factor in ((0, 50), (2, 1000)):
        moved = unseen.activations.copy()
        moved[:, column] *= factor
        assert screen.held_back(screen.p_values(OriginalReadings(unseen.original, moved))).all()


def test_an_input_that_cannot_be_read_is_held_back() -> None:
    screen, unseen = Screen.of(fit(), 0.1), readings(8, 1)
    assert screen is not None
    logits, moved = unseen.original.copy(), unseen.activations.copy()
    logits[0], logits[1, 2], logits[2, 0] = np.nan, np.nan, np.inf
    moved[3, 0], moved[4, 2], moved[5, 1] = np.nan, np.inf, np.inf
    with np.errstate(invalid="ignore"):
        held_back = screen.held_back(screen.p_values(OriginalReadings(logits, moved)))
    assert held_back[:6].all()


@pytest.mark.parametrize(
    ("statistics", "share", "disagreement_theta"),
    [
        (ALL, 0.0, 0.0),
        (ALL, 1.0, 0.0),
        (ALL, 0.1, 1.0),
        (("margin_gap",), 0.1, 0.0),
        (("residual_margin_gap", "original_margin"), 0.1, 0.0),
    ],
    ids=["share 0", "share 1", "all disagreements", "logits alone", "margin alone"],
)
def test_no_screen(statistics: tuple[str, ...], share: float, disagreement_theta: float) -> None:
    assert Screen.of(fit(statistics, disagreement_theta), share) is None


def test_what_the_test_could_flag_is_held_back_whatever_the_share() -> None:
    screen = Screen.of(fit(), 1e-6)
    assert screen is not None
    assert screen.level == THETA
    screen = Screen.of(fit(disagreement_theta=0.2), 0.1)
    assert screen is not None
    assert screen.level == 0.2


def test_margins_of_the_decisions_are_those_of_the_largest_logit() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    logits[0], logits[1, :2] = 1.0, 9.0  # ties have the margin 0
    read = OriginalReadings(logits)
    np.testing.assert_array_equal(read.original_margins, margin(logits, logits.argmax(axis=1)))
    assert read.original_margins[:2].tolist() == [0, 0]
    assert read.activations.shape == (50, 0)
