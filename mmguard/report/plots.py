"""Geometry of the page's plots, in SVG units; y increases downwards. `templates/plots.jinja` draws them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import beta

from mmguard.types import FloatArray, IntArray

WIDTH, HEIGHT = 340, 250
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 24, 40
"""Margins around the plotted area, in SVG units, for the labels of the axes."""
BIN = 0.25
"""Width of a histogram bin, in standard deviations."""
SPAN = 4.0
"""Each axis of scores extends at least this many standard deviations to either side of 0."""
FAR = 7.0
"""Maximum distance from 0, in standard deviations, at which a score is drawn.

Scores that are farther from 0 are drawn at this distance.
"""
POINTS = 300
"""Maximum number of points that are drawn in the middle of a quantile plot, between its two ends."""
ENDS = 50
"""Number of points that are drawn at each end of a quantile plot."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis.

    Attributes:
        at: position along the axis.
        label: text of the mark.
    """

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram.

    Attributes:
        x: left edge.
        y: upper edge.
        width: width, 1 SVG unit less than the width of the bin.
        height: height.
        flagged: whether the bar counts inputs with p ≤ θ.
    """

    x: float
    y: float
    width: float
    height: float
    flagged: bool


@dataclass(frozen=True)
class Histogram:
    """Counts of scores, and the counts expected under a standard normal distribution.

    Attributes:
        bars: one bar for each bin that is not empty.
        curve: points of the curve of expected counts, in the format of an SVG `points` attribute.
        threshold: x coordinate of the score at or above which inputs are flagged.
        x_ticks: marks of the x axis, which shows scores in standard deviations.
        y_ticks: marks of the y axis, which shows the number of inputs in each bin.
    """

    bars: tuple[Bar, ...]
    curve: str
    threshold: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Point:
    """A point of the quantile plot.

    Attributes:
        x: horizontal position.
        y: vertical position.
        flagged: whether the input has p ≤ θ.
    """

    x: float
    y: float
    flagged: bool


@dataclass(frozen=True)
class Quantiles:
    """Scores against the quantiles of a standard normal distribution.

    Attributes:
        points: the scores that are drawn, in ascending order.
        band: corners of the pointwise 95 % band, in the format of an SVG `points` attribute. In 95 of 100 samples from
            a standard normal distribution, a given score lies within the band.
        diagonal: both ends of the line on which observed and expected scores are equal.
        threshold: y coordinate of the score at or above which inputs are flagged.
        x_ticks: marks of the x axis, which shows expected scores.
        y_ticks: marks of the y axis, which shows observed scores.
    """

    points: tuple[Point, ...]
    band: str
    diagonal: tuple[Point, Point]
    threshold: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Axis:
    """A linear map from values to SVG units.

    Attributes:
        low: smallest value on the axis.
        high: largest value on the axis.
        start: position of `low`, in SVG units.
        end: position of `high`, in SVG units.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def across(cls, low: float, high: float) -> "Axis":
        """Make a horizontal axis.

        Args:
            low: value at the left end.
            high: value at the right end.

        Returns:
            The axis.
        """
        return cls(low, high, LEFT, WIDTH - RIGHT)

    @classmethod
    def upwards(cls, low: float, high: float) -> "Axis":
        """Make a vertical axis.

        Args:
            low: value at the lower end.
            high: value at the upper end.

        Returns:
            The axis.
        """
        return cls(low, high, HEIGHT - BOTTOM, TOP)

    def __call__(self, value: float) -> float:
        """Return the position of a value. A value outside the axis is placed at the nearer end of the axis."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, step: float) -> tuple[Tick, ...]:
        """Place a mark at each multiple of a step.

        Args:
            step: difference between the values of neighbouring marks; above 0.

        Returns:
            The marks, in ascending order.

        Example:
            >>> [tick.label for tick in Axis.across(-4, 5).ticks(2)]
            ['−4', '−2', '0', '2', '4']
        """
        first, last = np.ceil(self.low / step), np.floor(self.high / step)
        return tuple(Tick(self(i * step), f"{i * step:g}".replace("-", "−")) for i in np.arange(first, last + 1))


def histogram(scores: FloatArray, threshold: float) -> Histogram:
    """Lay out a histogram whose bins are a quarter of a standard deviation wide, with a bin edge at the threshold.

    Args:
        scores: (n,) float64, standard-normal scores; large is suspicious.
        threshold: score at or above which inputs are flagged.

    Returns:
        The histogram.
    """
    threshold = _within(threshold)
    first, last = np.floor((-SPAN - threshold) / BIN), np.ceil((max(SPAN, threshold + 1) - threshold) / BIN)
    edges = threshold + BIN * np.arange(first, last + 1)
    counts, _ = np.histogram(scores.clip(edges[0], np.nextafter(edges[-1], -np.inf)), edges)
    grid = np.linspace(edges[0], edges[-1], 97)
    expected = len(scores) * BIN * np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    x, y = Axis.across(edges[0], edges[-1]), Axis.upwards(0, 1.05 * max(counts.max(), expected.max()))
    return Histogram(
        tuple(_bar(x, y, edge, count, edge >= threshold) for edge, count in zip(edges, counts, strict=False) if count),
        _path((x(at), y(height)) for at, height in zip(grid, expected, strict=True)),
        x(threshold),
        x.ticks(2),
        y.ticks(nice_step(y.high)),
    )


def _bar(x: Axis, y: Axis, edge: float, count: int, flagged: bool) -> Bar:
    left, right, top = x(edge), x(edge + BIN), y(count)
    return Bar(left, top, round(right - left - 1, 2), round(y.start - top, 2), bool(flagged))


def quantile_plot(scores: FloatArray, threshold: float) -> Quantiles:
    """Lay out a quantile plot of scores against a standard normal distribution.

    Args:
        scores: (n,) float64, standard-normal scores; large is suspicious.
        threshold: score at or above which inputs are flagged.

    Returns:
        The quantile plot, with a pointwise 95 % band from the beta distribution of order statistics.
    """
    n = len(scores)
    ranks = _drawn(n)
    expected, found = ndtri((ranks - 0.5) / n), np.sort(scores)[ranks - 1]
    low, high = (ndtri(beta.ppf(tail, ranks, n + 1 - ranks)) for tail in (0.025, 0.975))
    reach = min(FAR, max(SPAN, float(np.abs(found).max()) + 0.25))
    x, y = Axis.across(-reach, reach), Axis.upwards(-reach, reach)
    there = [(x(a), y(b)) for a, b in zip(expected, high, strict=True)]
    back = [(x(a), y(b)) for a, b in zip(expected[::-1], low[::-1], strict=True)]
    return Quantiles(
        tuple(Point(x(a), y(b), bool(b >= threshold)) for a, b in zip(expected, found, strict=True)),
        _path([*there, *back]),
        (Point(x(-reach), y(-reach), False), Point(x(reach), y(reach), False)),
        y(threshold),
        x.ticks(2),
        y.ticks(2),
    )


def _drawn(n: int) -> IntArray:
    """Choose the ranks to draw from 1 to n: every rank near both ends, and evenly spaced ranks in between."""
    if n <= POINTS + 2 * ENDS:
        return np.arange(1, n + 1)
    middle = np.linspace(ENDS + 1, n - ENDS, POINTS).round().astype(np.int64)
    return np.concatenate([np.arange(1, ENDS + 1), middle, np.arange(n - ENDS + 1, n + 1)])


def _within(score: float) -> float:
    return min(max(score, -FAR), FAR)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def nice_step(high: float) -> float:
    """Choose a round step, at least 1, for the marks of an axis from 0 to `high`.

    The axis then has three to seven marks above 0, or fewer if `high` is below 3.

    Args:
        high: upper end of the axis, above 0.

    Returns:
        1, 2 or 5 times a power of ten.

    Example:
        >>> nice_step(149)
        20.0
    """
    power = 10.0 ** np.floor(np.log10(high / 3))
    return max(1.0, float(power * max(factor for factor in (1, 2, 5) if factor * power <= high / 3)))
