"""The work that a time budget allows."""

import pytest

from mmguard.calibrate.audit.plan import LEAST, Effort, OutOfTimeError, TimeBudget, efforts, least_work, per_class
from mmguard.calibrate.progress import FORWARD

EFFORT = Effort(inputs=10, steps=20, judged=30)
WORK = 4 * (10 * 20 + 30 * FORWARD)
"""Work of `EFFORT` for four classes."""


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(seconds: float | None, rate: float = 1.0, slower: float = 1.0) -> dict[str, float]:
    """Shares of three equal scales, if each takes `slower` times as long as estimated."""
    clock = Clock()
    shares = {}
    for name, share in TimeBudget(seconds, rate, clock).shares(dict.fromkeys("abc", (EFFORT, 4))):
        shares[name] = share
        clock.now += slower * rate * EFFORT.work(4, share)
    return shares


def test_the_work_by_hand() -> None:
    assert EFFORT.work(4) == pytest.approx(WORK)
    assert EFFORT.work(4, 0.5) == pytest.approx(4 * (10 * 10 + 30 * FORWARD))
    assert EFFORT.work(1000) == pytest.approx(1000 * (2 * 20 + 2 * FORWARD)), "two inputs per class"


@pytest.mark.parametrize("images", [True, False])
def test_the_work_grows_at_most_as_the_number_of_classes(images: bool) -> None:
    for effort in efforts(images).values():
        for classes in (3, 10, 100, 500, 1000, 20_000):
            assert effort.work(2 * classes) <= 2 * effort.work(classes) * (1 + 1e-9)
    assert per_class(20, 10) == 20


@pytest.mark.parametrize("seconds", [None, 3.01 * WORK])
def test_all_steps_are_taken_if_there_is_time(seconds: float | None) -> None:
    assert taken(seconds) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_scales_are_shortened_alike_if_there_is_too_little_time() -> None:
    shares = taken(2 * WORK)
    assert list(shares) == ["a", "b", "c"]
    assert all(0.5 < share < 0.8 for share in shares.values())


def test_the_last_scales_are_left_out_if_there_is_far_too_little_time() -> None:
    shares = taken(0.7 * WORK)
    assert list(shares) == ["a", "b"]
    assert shares["a"] == LEAST


@pytest.mark.parametrize(("seconds", "searched"), [(4 * 10 * 0.5, []), (0.2 * WORK, []), (0.4 * WORK, ["a"])])
def test_nothing_is_searched_if_the_fewest_steps_take_too_long(seconds: float, searched: list[str]) -> None:
    assert list(taken(seconds)) == searched


def test_the_least_work_is_that_of_the_shortest_search_of_the_first_scale() -> None:
    first = next(iter(efforts(images=True).values()))
    for classes in (2, 10, 1000):
        assert least_work(classes) == first.work(classes, LEAST)


def test_a_slower_machine_than_estimated_takes_fewer_steps() -> None:
    shares = taken(3.01 * WORK, slower=2.0)
    assert shares["a"] == 1
    assert shares["b"] < 0.7


def test_the_check_stops_a_search_only_after_its_time() -> None:
    clock = Clock()
    budget = TimeBudget(5.0, 1.0, clock)
    clock.now = 4.9
    budget.check()
    clock.now = 5.1
    with pytest.raises(OutOfTimeError):
        budget.check()
    TimeBudget(None, 1.0, clock).check()


def test_without_an_estimate_the_first_scale_runs_unless_the_time_is_over() -> None:
    clock = Clock()
    works = dict.fromkeys("ab", (EFFORT, 4))
    assert dict(TimeBudget(1.0, 0.0, clock).shares(works)) == {"a": 1.0, "b": 1.0}, "the clock stands still"
    late = TimeBudget(1.0, 0.0, clock)
    clock.now = 2.0
    assert dict(late.shares(works)) == {}
