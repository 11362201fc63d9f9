"""The geometry of the plots, checked against counts and quantiles computed another way."""

import numpy as np
import pytest
from scipy.stats import norm

from mmguard.report.evidence import LARGEST_SCORE, normal_scores
from mmguard.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, histogram, nice_step, quantile_plot
from mmguard.report.sections.false_positives import score_at

NORMAL = np.random.default_rng(0).normal(size=500)


@pytest.mark.parametrize("theta", [1e-9, 0.005, 0.3, 1.0])
@pytest.mark.parametrize("values", [NORMAL, NORMAL * 20, NORMAL[:20], np.full(30, LARGEST_SCORE)])
def test_plots_stay_within_their_axes(values: np.ndarray, theta: float) -> None:
    bars, points = histogram(values, score_at(theta)), quantile_plot(values, score_at(theta))
    for bar in bars.bars:
        assert bar.x >= LEFT
        assert bar.x + bar.width <= WIDTH - RIGHT
        assert TOP <= bar.y <= bar.y + bar.height <= HEIGHT - BOTTOM + 0.01
    for line in (bars.curve, points.band):
        at = np.array([pair.split(",") for pair in line.split()], float)
        assert np.isfinite(at).all()
        assert (at.min(axis=0) >= (LEFT, TOP)).all()
        assert (at.max(axis=0) <= (WIDTH - RIGHT, HEIGHT - BOTTOM)).all()
    assert all(LEFT <= point.x <= WIDTH - RIGHT and TOP <= point.y <= HEIGHT - BOTTOM for point in points.points)
    assert TOP <= points.threshold <= HEIGHT - BOTTOM


def test_the_bars_beyond_theta_hold_the_inputs_that_it_flags() -> None:
    plot = histogram(NORMAL, score_at(0.05))
    unit = (HEIGHT - BOTTOM - plot.y_ticks[1].at) / float(plot.y_ticks[1].label)
    flagged = sum(bar.height for bar in plot.bars if bar.flagged) / unit
    assert flagged == pytest.approx((norm.sf(NORMAL) <= 0.05).sum(), abs=0.1)
    assert sum(bar.height for bar in plot.bars) / unit == pytest.approx(500, abs=0.5)


def test_quantiles_of_a_normal_sample_lie_on_the_diagonal() -> None:
    plot = quantile_plot(norm.ppf((np.arange(1, 101) - 0.5) / 100), score_at(0.005))
    assert len(plot.points) == 100
    for point in plot.points:
        across = (point.x - LEFT) / (WIDTH - RIGHT - LEFT)
        up = (HEIGHT - BOTTOM - point.y) / (HEIGHT - BOTTOM - TOP)
        assert across == pytest.approx(up, abs=1e-3)


def test_both_ends_of_many_inputs_are_drawn() -> None:
    values = np.sort(np.random.default_rng(1).normal(size=50_000))
    plot = quantile_plot(values, score_at(0.001))
    assert len(plot.points) == 400
    assert sum(point.flagged for point in plot.points) >= 50
    assert plot.points[-1].y == min(point.y for point in plot.points)


@pytest.mark.parametrize(("p", "score"), [(0.5, 0.0), (0.005, 2.5758293), (0.0, LARGEST_SCORE), (1.0, -LARGEST_SCORE)])
def test_scores_are_finite_quantiles(p: float, score: float) -> None:
    assert normal_scores(np.array([p]))[0] == pytest.approx(score)
    assert score_at(p) == normal_scores(np.array([0.3, p]))[1]


@pytest.mark.parametrize(("high", "step"), [(2.1, 1), (6, 2), (30, 10), (149, 20), (1000, 200)])
def test_steps_are_round(high: float, step: float) -> None:
    assert nice_step(high) == step
