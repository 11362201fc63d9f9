"""Geometry of the page's plots. The templates draw it: in SVG units, y downwards."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from mmguard.types import FloatArray, IntArray

WIDTH, HEIGHT = 340, 250
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 24, 40
"""Room around the plotted area for the labels of the axes."""
BIN = 0.25
SPAN = 4.0
"""Standard deviations that an axis reaches to both sides at least."""
FAR = 7.0
"""Scores beyond it are drawn at it."""
POINTS = 300
"""Drawn of a quantile plot, beside those of both ends."""
ENDS = 50


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram; `flagged` where it is of inputs with p <= theta."""

    x: float
    y: float
    width: float
    height: float
    flagged: bool


@dataclass(frozen=True)
class Histogram:
    """Counts of scores, and the counts that a standard normal expects, as the points of a line."""

    bars: tuple[Bar, ...]
    curve: str
    threshold: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Point:
    """A point of the quantile plot; `flagged` where its p-value is at most theta."""

    x: float
    y: float
    flagged: bool


@dataclass(frozen=True)
class Quantiles:
    """Scores against the quantiles of a standard normal, and the band in which 95 of 100 samples have each of them."""

    points: tuple[Point, ...]
    band: str
    diagonal: tuple[Point, Point]
    threshold: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Axis:
    """A linear map from [low, high] to SVG units."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def across(cls, low: float, high: float) -> "Axis":
        """A horizontal axis."""
        return cls(low, high, LEFT, WIDTH - RIGHT)

    @classmethod
    def upwards(cls, low: float, high: float) -> "Axis":
        """A vertical axis."""
        return cls(low, high, HEIGHT - BOTTOM, TOP)

    def __call__(self, value: float) -> float:
        """Where a value lies, at the nearer end where it is outside."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, step: float) -> tuple[Tick, ...]:
        """Marks at the multiples of a step."""
        first, last = np.ceil(self.low / step), np.floor(self.high / step)
        return tuple(Tick(self(i * step), f"{i * step:g}".replace("-", "−")) for i in np.arange(first, last + 1))


def histogram(scores: FloatArray, line: float) -> Histogram:
    """Bins of a quarter of a standard deviation, one of whose edges is at the line.

    Args:
        scores: (n,) float64. line: score from which inputs are flagged.
    """
    line = _within(line)
    first, last = np.floor((-SPAN - line) / BIN), np.ceil((max(SPAN, line + 1) - line) / BIN)
    edges = line + BIN * np.arange(first, last + 1)
    counts, _ = np.histogram(scores.clip(edges[0], np.nextafter(edges[-1], -np.inf)), edges)
    grid = np.linspace(edges[0], edges[-1], 97)
    expected = len(scores) * BIN * np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    x, y = Axis.across(edges[0], edges[-1]), Axis.upwards(0, 1.05 * max(counts.max(), expected.max()))
    return Histogram(
        tuple(_bar(x, y, edge, count, edge >= line) for edge, count in zip(edges, counts, strict=False) if count),
        _path((x(at), y(height)) for at, height in zip(grid, expected, strict=True)),
        x(line),
        x.ticks(2),
        y.ticks(nice_step(y.high)),
    )


def _bar(x: Axis, y: Axis, edge: float, count: int, flagged: bool) -> Bar:
    left, right, top = x(edge), x(edge + BIN), y(count)
    return Bar(left, top, round(right - left - 1, 2), round(y.start - top, 2), bool(flagged))


def quantile_plot(scores: FloatArray, line: float) -> Quantiles:
    """Scores in order against what a standard normal expects of them.

    Args:
        scores: (n,) float64. line: score from which inputs are flagged.
    """
    from scipy.stats import beta  # takes longer to load than all that serving needs

    n = len(scores)
    ranks = _drawn(n)
    expected, found = ndtri((ranks - 0.5) / n), np.sort(scores)[ranks - 1]
    low, high = (ndtri(beta.ppf(tail, ranks, n + 1 - ranks)) for tail in (0.025, 0.975))
    reach = min(FAR, max(SPAN, float(np.abs(found).max()) + 0.25))
    x, y = Axis.across(-reach, reach), Axis.upwards(-reach, reach)
    there = [(x(a), y(b)) for a, b in zip(expected, high, strict=True)]
    back = [(x(a), y(b)) for a, b in zip(expected[::-1], low[::-1], strict=True)]
    return Quantiles(
        tuple(Point(x(a), y(b), bool(b >= line)) for a, b in zip(expected, found, strict=True)),
        _path([*there, *back]),
        (Point(x(-reach), y(-reach), False), Point(x(reach), y(reach), False)),
        y(line),
        x.ticks(2),
        y.ticks(2),
    )


def _drawn(n: int) -> IntArray:
    """Ranks from 1 to n that are drawn: all of both ends, and an even choice between."""
    if n <= POINTS + 2 * ENDS:
        return np.arange(1, n + 1)
    middle = np.linspace(ENDS + 1, n - ENDS, POINTS).round().astype(np.int64)
    return np.concatenate([np.arange(1, ENDS + 1), middle, np.arange(n - ENDS + 1, n + 1)])


def _within(score: float) -> float:
    return min(max(score, -FAR), FAR)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def nice_step(high: float) -> float:
    """A round step that marks an axis from 0 to `high` three to six times, of at least 1."""
    power = 10.0 ** np.floor(np.log10(high / 3))
    return max(1.0, float(power * max(factor for factor in (1, 2, 5) if factor * power <= high / 3)))
