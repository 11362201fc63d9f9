"""The amount of work that the audit's search needs at each scale, and how much of it a time budget allows."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mmguard.calibrate.progress import FORWARD

SEARCH_BUDGET = 1000
"""Maximum number of inputs per step, summed over all classes; each class gets at least two inputs, even if this exceeds
the maximum. So the work is constant up to 500 classes, and proportional to the number of classes above."""
ALONE, ALONE_STEPS = 10, 30
"""Scale `sample`: the number of inputs per class and the number of steps."""
APART, APART_STEPS = 10, 30
"""Scale `orthogonal`: the number of inputs per class and the number of steps."""
SHARING, SHARED_STEPS = 20, 20
"""All other scales: the number of inputs per class that share a change, and the number of steps."""
PLACING_STEPS = 40
"""Scale `pixels`: the number of steps that choose the pixels, before the steps that improve the pattern."""
JUDGED = 100
"""Number of inputs per class on which a shared change is evaluated."""
LEAST = 0.25
"""If the time budget does not suffice for all scales, each scale takes at least this share of its steps, and the last
scales are left out. With fewer steps, margins say little."""
MARGIN = 0.9
"""Share of the remaining time that is planned; the rest covers errors of the estimate."""


@dataclass(frozen=True)
class Effort:
    """The work of one scale.

    Attributes:
        inputs: maximum number of inputs per class and step.
        steps: number of steps that compute a gradient.
        judged: maximum number of inputs per class on which the result is evaluated.
    """

    inputs: int
    steps: int
    judged: int

    def work(self, classes: int, share: float = 1.0) -> float:
        """Return the amount of work, in inputs that pass forward and backward through the network.

        Args:
            classes: number of classes that are searched.
            share: share of the steps that is taken.

        Returns:
            The amount; a forward pass alone counts as `FORWARD`.
        """
        steps = max(1, int(share * self.steps))
        return classes * (per_class(self.inputs, classes) * steps + per_class(self.judged, classes) * FORWARD)


def efforts(images: bool) -> dict[str, Effort]:
    """Return the work of each scale, in the order of the search.

    Args:
        images: whether the inputs are images.
    """
    shared = Effort(SHARING, SHARED_STEPS, JUDGED)
    scales = {
        "sample": Effort(ALONE, ALONE_STEPS, ALONE),
        "orthogonal": Effort(APART, APART_STEPS, APART),
        "pixels": Effort(SHARING, PLACING_STEPS + SHARED_STEPS, JUDGED),
        "shared": shared,
    }
    return scales | ({"warp": shared} if images else {})


def least_work(classes: int) -> float:
    """Return the least amount of work of a search, which is that of the scale `sample` with the fewest steps.

    Args:
        classes: number of classes that are searched.

    Returns:
        The amount, in inputs that pass forward and backward through the network.
    """
    return efforts(images=False)["sample"].work(classes, LEAST)


def per_class(most: int, classes: int) -> int:
    """Return the number of inputs per class that `SEARCH_BUDGET` allows, but at most `most`.

    Args:
        most: upper limit of the result.
        classes: number of classes that are searched.
    """
    return min(most, max(2, SEARCH_BUDGET // max(1, classes)))


class OutOfTimeError(Exception):
    """The time budget ran out in the middle of a scale."""


class TimeBudget:
    """Limits the time of a search. Without a limit, every scale takes all of its steps.

    Args:
        seconds: duration of the search, at most; None for no limit.
        rate: estimated seconds per unit of work. After the first scale, the measured duration replaces the estimate.
        clock: function that returns the number of seconds since a fixed point in time.
    """

    def __init__(
        self, seconds: float | None = None, rate: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._seconds, self._rate, self._clock = seconds, rate, clock
        self._started = clock()

    def shares(self, works: Mapping[str, tuple[Effort, int]]) -> Iterator[tuple[str, float]]:
        """Yield the share of its steps that each scale may take; the caller runs the scale before the next one.

        If the estimated time of all remaining scales fits, each takes all of its steps. Otherwise all are shortened by
        the same factor, but to no less than `LEAST`, and scales for which even that takes too long are not yielded.

        Args:
            works: effort and number of classes, by scale.

        Yields:
            Name of the scale, and the share of its steps in (0, 1].
        """
        left = dict(works)
        for name, (effort, classes) in works.items():
            total = sum(each.work(count) for each, count in left.values())
            del left[name]
            share = self._share(effort, classes, total)
            if share > 0:
                before = self._clock()
                yield name, share
                self._rate = (self._clock() - before) / effort.work(classes, share)

    def check(self) -> None:
        """Stop the scale that is running if no time is left.

        Raises:
            OutOfTimeError: the time budget is used up.
        """
        if self._seconds is not None and self._remaining() < 0:
            raise OutOfTimeError

    def _remaining(self) -> float:
        return (self._seconds or 0.0) - (self._clock() - self._started)

    def _share(self, effort: Effort, classes: int, total: float) -> float:
        if self._seconds is None or total * self._rate <= self._remaining():
            return 1.0
        units = MARGIN * max(0.0, self._remaining()) / max(1e-12, self._rate)
        share = max(LEAST, units / total)
        judged = effort.work(classes, 0.0) - classes * per_class(effort.inputs, classes)
        possible = (units - judged) / max(1e-12, effort.work(classes) - judged)
        share = min(1.0, share, possible)
        return share if share >= LEAST and share * effort.steps >= 1 else 0.0
