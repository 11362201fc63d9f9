"""When a batch waits, when it is late, and when it is refused. Networks here are events, so the clock affects only
how long the tests take."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from mmguard.errors import InferenceError, LateError, OverloadError
from mmguard.guard import lanes as lanes_module
from mmguard.guard.lanes import TIMES_USUAL, Lanes
from tests.guard.serving.servers import DEADLINE, wait_until

SHORT = 0.02
"""Seconds of a timeout that is meant to expire."""


class Job:
    """A network that returns its number once it is released."""

    def __init__(self, number: int = 0) -> None:
        self.begun, self.let, self.number = Event(), Event(), number

    def __call__(self) -> int:
        self.begun.set()
        assert self.let.wait(DEADLINE)
        return self.number


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    opened = Lanes(2)
    yield opened
    opened.close()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def answered(number: int) -> Job:
    job = Job(number)
    job.let.set()
    return job


def test_a_batch_is_answered_by_its_own_job(lanes: Lanes) -> None:
    runs = [lanes.start(answered(number)) for number in range(20)]
    assert [lanes.result(run, None, 0.0) for run in runs] == list(range(20))


def test_what_a_job_raises_is_raised_to_whoever_waits(lanes: Lanes) -> None:
    def fail() -> Any:
        raise TimeoutError("of its own")

    run = lanes.start(fail)
    with pytest.raises(TimeoutError, match="of its own"):
        lanes.result(run, 60.0, 0.0)


def test_no_more_batches_run_at_once_than_there_are_lanes_and_the_others_follow_in_order(lanes: Lanes) -> None:
    jobs = [Job(number) for number in range(4)]
    runs = [lanes.start(job) for job in jobs]
    assert all(job.begun.wait(DEADLINE) for job in jobs[:2])
    assert not jobs[2].begun.is_set()
    jobs[0].let.set()
    assert jobs[2].begun.wait(DEADLINE)
    assert not jobs[3].begun.is_set()
    for job in jobs:
        job.let.set()
    assert [lanes.result(run, None, 0.0) for run in runs] == [0, 1, 2, 3]


def test_a_batch_that_runs_on_and_on_is_late(lanes: Lanes) -> None:
    job = Job()
    run = lanes.start(job)
    with pytest.raises(LateError, match=rf"not finish within {SHORT} s after the original"):
        lanes.result(run, SHORT, 0.0)
    job.let.set()


def test_waiting_in_line_is_not_lateness(lanes: Lanes, callers: ThreadPoolExecutor) -> None:
    slow, quick = [Job(1), Job(2)], answered(3)
    runs = [lanes.start(job) for job in slow]  # so are their originals: nobody asks yet
    third = callers.submit(lanes.result, lanes.start(quick), SHORT, 0.0)
    Event().wait(5 * SHORT)
    assert not third.done()
    for job in slow:
        job.let.set()
    assert third.result(DEADLINE) == 3
    assert [lanes.result(run, None, 0.0) for run in runs] == [1, 2]


def test_a_batch_may_take_some_times_as_long_as_the_original_took(lanes: Lanes, callers: ThreadPoolExecutor) -> None:
    job = Job(7)
    future = callers.submit(lanes.result, lanes.start(job), SHORT, 3600.0)
    Event().wait(5 * SHORT)
    assert not future.done()
    job.let.set()
    assert future.result(DEADLINE) == 7
    other = Job()
    patient = lanes.start(other)
    assert other.begun.wait(DEADLINE)
    patient.asked, patient.original = patient.began + 1, 5.0
    lanes._share = 0.0
    assert lanes._due(patient, 2.0) == pytest.approx(patient.began + TIMES_USUAL * 5 + 2)
    other.let.set()


def test_what_batches_took_lately_is_allowed_and_more_so_among_many(lanes: Lanes) -> None:
    jobs = [Job(), Job(), Job()]
    runs = [lanes.start(job) for job in jobs]
    assert jobs[0].begun.wait(DEADLINE)
    lanes._learn(3.0)  # three contended, so that alone it would have taken one second
    runs[0].asked = runs[0].began
    assert lanes._due(runs[0], 1.0) == pytest.approx(runs[0].began + TIMES_USUAL * 3 + 1)
    lanes.drop(runs[2])
    assert lanes._due(runs[0], 1.0) == pytest.approx(runs[0].began + TIMES_USUAL * 2 + 1)
    for job in jobs:
        job.let.set()


def test_one_slow_batch_is_forgotten(lanes: Lanes) -> None:
    lanes._learn(10.0)
    for _ in range(200):
        lanes._learn(0.001)
    assert lanes._share < 0.01


def test_no_batch_is_late_before_its_original_is_done(lanes: Lanes, callers: ThreadPoolExecutor) -> None:
    unasked, hung = Job(1), Job(2)
    first, second = lanes.start(unasked), lanes.start(hung)
    assert unasked.begun.wait(DEADLINE)
    with pytest.raises(LateError):
        lanes.result(second, SHORT, 0.0)  # looks at the first, too
    unasked.let.set()
    assert lanes.result(first, SHORT, 0.0) == 1
    hung.let.set()


def test_a_late_batch_leaves_its_lane_to_the_next(lanes: Lanes, callers: ThreadPoolExecutor) -> None:
    hung, slow, next_one = Job(), Job(2), answered(3)
    late, slow_one = callers.submit(lanes.result, lanes.start(hung), SHORT, 0.0), lanes.start(slow)
    assert slow.begun.wait(DEADLINE)
    run = lanes.start(next_one)
    with pytest.raises(LateError):
        late.result(DEADLINE)
    assert lanes.result(run, None, 0.0) == 3
    slow.let.set()
    hung.let.set()
    assert lanes.result(slow_one, None, 0.0) == 2


def test_a_batch_that_is_late_only_once_another_was_given_up_is_late(lanes: Lanes) -> None:
    """The remaining load allows it less time, which has already passed."""
    one, two = Job(1), Job(2)
    first, second = lanes.start(one), lanes.start(two)
    assert one.begun.wait(DEADLINE)
    assert two.begun.wait(DEADLINE)
    lanes._share = 1.0  # so of two batches each may take 6 s, and of one 3
    first.began -= 4
    second.began, second.asked = second.began - 100, 0.0
    with pytest.raises(LateError):
        lanes.result(first, SHORT, 0.0)
    one.let.set()
    two.let.set()


def test_a_hang_is_found_for_all_that_wait_and_once_it_ends_batches_are_answered_again(
    lanes: Lanes, callers: ThreadPoolExecutor
) -> None:
    jobs = [Job(number) for number in range(20)]
    futures: list[Future[Any]] = [callers.submit(lanes.result, lanes.start(job), SHORT, 0.0) for job in jobs]
    for future in futures:
        with pytest.raises(LateError):
            future.result(DEADLINE)
    for job in jobs:
        job.let.set()
    wait_until(lambda: not lanes._late)
    assert lanes.result(lanes.start(answered(5)), 60.0, 0.0) == 5


def hang(lanes: Lanes) -> list[Job]:
    """Make a batch late in every lane, and start others, whose originals are not done, in their place."""
    hung, others = [Job(), Job()], [Job(), Job()]
    for job in hung:
        with pytest.raises(LateError):
            lanes.result(lanes.start(job), SHORT, 0.0)
    for job in others:
        lanes.start(job)
    return hung + others


def test_where_a_batch_hung_in_every_lane_who_waits_in_line_does_not_wait_long(
    lanes: Lanes, callers: ThreadPoolExecutor
) -> None:
    jobs = hang(lanes)
    waiting = callers.submit(lanes.result, lanes.start(answered(5)), SHORT, 0.0)
    try:
        with pytest.raises(LateError):
            waiting.result(DEADLINE / 2)
    finally:
        for job in jobs:
            job.let.set()


def test_one_batch_that_ends_shows_that_the_network_does_not_hang(lanes: Lanes, callers: ThreadPoolExecutor) -> None:
    jobs = hang(lanes)
    jobs[0].let.set()
    wait_until(lambda: len(lanes._late) == 1)
    lanes._share = 0.0
    waiting = callers.submit(lanes.result, lanes.start(answered(5)), SHORT, 0.0)
    Event().wait(5 * SHORT)
    assert not waiting.done()
    for job in jobs:
        job.let.set()
    assert waiting.result(DEADLINE) == 5


def test_a_full_guard_lets_in_as_soon_as_there_is_room(
    lanes: Lanes, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_module, "MAX_PENDING", 3)
    jobs = [Job(number) for number in range(3)]
    runs = [lanes.start(job) for job in jobs]
    fourth = callers.submit(lambda: lanes.result(lanes.start(answered(9)), None, 0.0))
    Event().wait(SHORT)
    assert not fourth.done()
    for job in jobs:
        job.let.set()
    assert fourth.result(DEADLINE) == 9
    assert [lanes.result(run, None, 0.0) for run in runs] == [0, 1, 2]


def test_a_full_guard_refuses_after_a_while(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "MAX_PENDING", 2)
    monkeypatch.setattr(lanes_module, "MAX_WAIT", SHORT)
    jobs = [Job(), Job()]
    for job in jobs:
        lanes.start(job)
    with pytest.raises(
        OverloadError, match=r"2 batches are in flight, and none of them finished within 0\.02 s; send fewer"
    ):
        lanes.start(answered(1))
    for job in jobs:
        job.let.set()
    assert lanes.result(lanes.start(answered(1)), None, 0.0) == 1


def test_a_full_guard_whose_batches_are_all_late_refuses_at_once(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "MAX_PENDING", 2)
    jobs = [Job(), Job()]
    for run in [lanes.start(job) for job in jobs]:
        with pytest.raises(LateError):
            lanes.result(run, SHORT, 0.0)
    with pytest.raises(LateError, match="hangs: 2 batches are late"):
        lanes.start(answered(1))
    for job in jobs:
        job.let.set()
    wait_until(lambda: not lanes._late)
    assert lanes.result(lanes.start(answered(1)), None, 0.0) == 1


def test_a_dropped_batch_makes_room(lanes: Lanes) -> None:
    jobs, dropped = [Job(), Job()], Job()
    runs = [lanes.start(job) for job in jobs]
    lanes.drop(lanes.start(dropped))
    lanes.drop(runs[0])
    for job in jobs:
        job.let.set()
    assert lanes.result(lanes.start(answered(4)), None, 0.0) == 4
    assert not dropped.begun.is_set()


def test_a_dropped_batch_that_hangs_gives_its_lane_up(lanes: Lanes) -> None:
    jobs = [Job(), Job()]
    for job in jobs:
        lanes.drop(lanes.start(job))
    with pytest.raises(LateError):
        lanes.result(lanes.start(hung := Job()), SHORT, 0.0)
    assert lanes.result(lanes.start(answered(4)), 60.0, 0.0) == 4
    for job in (*jobs, hung):
        job.let.set()


def test_what_is_in_line_when_the_guard_closes_is_still_answered(callers: ThreadPoolExecutor) -> None:
    lanes, jobs = Lanes(1), [Job(number) for number in range(3)]
    runs = [lanes.start(job) for job in jobs]
    lanes.close()
    with pytest.raises(InferenceError, match="the guard is closed"):
        lanes.start(answered(9))
    for job in jobs:
        job.let.set()
    assert [lanes.result(run, 60.0, 0.0) for run in runs] == [0, 1, 2]
    wait_until(lambda: not any(thread.name.startswith("mmguard") for thread in threading.enumerate()))


def test_who_waits_for_room_hears_that_the_guard_is_closed(
    lanes: Lanes, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_module, "MAX_PENDING", 1)
    job = Job()
    lanes.start(job)
    waiting = callers.submit(lanes.start, answered(1))
    Event().wait(SHORT)
    lanes.close()
    with pytest.raises(InferenceError, match="closed"):
        waiting.result(DEADLINE)
    job.let.set()


def test_a_timeout_longer_than_clocks_go_is_none(lanes: Lanes) -> None:
    assert lanes.result(lanes.start(answered(1)), float("inf"), 0.0) == 1


def test_who_is_in_line_when_the_interpreter_ends_is_told_so(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    jobs = [Job(0), Job(1)]
    runs = [lanes.start(job) for job in jobs]
    waiting = lanes.start(answered(2))
    monkeypatch.setattr(lanes._pool, "submit", refuse)
    for job in jobs:
        job.let.set()
    with pytest.raises(InferenceError, match=r"closed: .*interpreter shutdown"):
        lanes.result(waiting, None, 0.0)
    assert [lanes.result(run, None, 0.0) for run in runs] == [0, 1]
    with pytest.raises(InferenceError, match="closed"):
        lanes.result(lanes.start(answered(3)), None, 0.0)
