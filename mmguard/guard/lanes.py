"""Runs networks on worker threads, a few batches at a time. Other batches wait; late batches are dropped.

A batch is late only if it has run far longer than batches currently take. Time spent in line does not count. If the
machine is busy and every batch takes longer, a batch may also run longer before it is late.
"""

import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from mmguard.errors import InferenceError, LateError, OverloadError

MAX_PENDING = 64
"""Maximum number of batches in flight, including late batches. This limits memory and threads if the clipped network
hangs."""
MAX_WAIT = 30.0
"""Maximum number of seconds that a new batch waits for other batches to finish. Then the new batch is refused."""
TIMES_USUAL = 3
"""A batch is late only if it has run for longer than the policy's timeout plus this many times the usual time."""
FORGETTING = 0.95
"""Factor by which each measurement multiplies the remembered time of the slowest batch. After 45 measurements, a tenth
of that time is left."""


CLIPPED = "the clipped network"
"""How error messages name the network that usually runs on worker threads."""


class Run:
    """A batch that is waiting for a network or running on it.

    Args:
        job: function that computes the output.
        what: the network, as error messages name it.

    Attributes:
        job: the function that computes the output.
        what: the network, as error messages name it.
        began: time at which the job began, by `time.perf_counter`; infinite while the batch is in line.
        asked: time, by `time.perf_counter`, at which the caller began to wait for the output, after running the
            original network; or at which the caller dropped the batch. Infinite before that time.
        original: seconds that the original network took for the same batch.
        done: a lock that is released once the job has returned or failed.
        output: the return value of the job; None until the job has returned.
        error: the exception that the job raised; None if there was no exception.
    """

    def __init__(self, job: Callable[[], Any], what: str = CLIPPED) -> None:
        self.job, self.what = job, what
        self.began, self.asked, self.original = math.inf, math.inf, 0.0
        self.done = threading.Lock()
        self.done.acquire()
        self.output: Any = None
        self.error: BaseException | None = None


class Lanes:
    """Runs batches on worker threads, first come, first served. Safe to call from many threads.

    Args:
        lanes: maximum number of batches that run at the same time; more batches would only compete for the same cores.
            Late batches are not counted, so the next batch can start.

    Attributes:
        closed: whether new batches are refused.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._pool = ThreadPoolExecutor(MAX_PENDING, thread_name_prefix="mmguard")
        self._changed = threading.Condition()
        self._line: deque[Run] = deque()
        self._running: set[Run] = set()
        self._late: set[Run] = set()
        self._late_in_a_row = 0
        self._share = 0.0
        self.closed = False

    def start(self, job: Callable[[], Any], what: str = CLIPPED) -> Run:
        """Start a batch, or put it in line. If too many batches are in flight, wait until one has finished.

        Args:
            job: function that computes the output.
            what: the network that runs, as error messages name it.

        Returns:
            The batch, to be passed to `result` or `drop`.

        Raises:
            OverloadError: too many batches were in flight for `MAX_WAIT` seconds.
            LateError: all `MAX_PENDING` batches in flight are late, because the clipped network hangs.
            InferenceError: the guard is closed.
        """
        run = Run(job, what)
        with self._changed:
            entered = self._may_enter() or self._changed.wait_for(self._may_enter, MAX_WAIT)
            self.require_open()
            if len(self._late) >= MAX_PENDING:
                raise LateError(f"{what} hangs: {MAX_PENDING} batches are late and have not finished")
            if not entered:
                raise OverloadError(
                    f"{MAX_PENDING} batches are in flight, and none of them finished within {MAX_WAIT:g} s; "
                    "send fewer batches at once, or serve the model from more machines"
                )
            self._line.append(run)
            self._advance()
        return run

    def require_open(self) -> None:
        """Refuse work if the guard is closed.

        Raises:
            InferenceError: the guard is closed.
        """
        if self.closed:
            raise InferenceError("the guard is closed; open a new guard")

    def result(self, run: Run, timeout: float | None, original: float) -> Any:
        """Wait for a batch's output. Call this once the original network has answered the batch.

        Args:
            run: the batch.
            timeout: number of seconds to wait; None waits forever. The seconds are counted from now, or from the time
                at which the batch has run `TIMES_USUAL` times as long as usual, whichever is later.
            original: seconds that the original network took for the batch.

        Returns:
            The return value of the job.

        Raises:
            LateError: the batch is late.
            BaseException: any exception that the job raised.
        """
        run.asked, run.original = perf_counter(), original
        self._learn(original)
        rest = -1.0 if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        while not run.done.acquire(timeout=rest):
            assert timeout is not None
            left = self._patience(run, timeout)
            if left is None:
                raise LateError(
                    f"{run.what} did not finish within {timeout:g} s after the original network had finished, "
                    f"and it took more than {TIMES_USUAL} times as long as usual; use a larger timeout, or send fewer "
                    "batches at once"
                )
            rest = left
        if run.error is not None:
            raise run.error
        return run.output

    def drop(self, run: Run) -> None:
        """Abandon a batch whose output is no longer needed.

        Args:
            run: the batch. If the batch is still in line, it is removed from the line; if it is running, it runs to the
                end.
        """
        run.asked = perf_counter()
        with self._changed:
            self._leave_line(run)

    def close(self) -> None:
        """Refuse new batches, and stop the threads once the batches in flight have finished."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            self._shut_if_done()

    def _may_enter(self) -> bool:
        in_flight = len(self._line) + len(self._running) + len(self._late)
        return self.closed or in_flight < MAX_PENDING or len(self._late) >= MAX_PENDING

    def _learn(self, seconds: float) -> None:
        """Update the time of the slowest recent batch of either network, divided by the number of competing batches."""
        self._share = max(seconds / self._contenders(), FORGETTING * self._share)

    def _contenders(self) -> int:
        """Return the number of batches that compete for the machine; late batches are assumed to be idle."""
        return max(1, len(self._line) + len(self._running))

    def _work(self, run: Run) -> None:
        run.began = perf_counter()
        try:
            run.output = run.job()
        except BaseException as error:
            run.error = error
        try:
            self._end(run)
        finally:
            run.done.release()

    def _advance(self) -> None:
        """Start batches from the line while lanes are free."""
        while self._line and len(self._running) < self._lanes:
            run = self._line.popleft()
            run.began = perf_counter()
            self._running.add(run)
            try:
                self._pool.submit(self._work, run)
            except RuntimeError as error:  # the interpreter is shutting down; do not let the caller wait forever
                self._running.remove(run)
                run.error = InferenceError(f"the guard is closed: {error}")
                run.done.release()
        self._shut_if_done()

    def _end(self, run: Run) -> None:
        with self._changed:
            if run in self._running:
                self._learn(perf_counter() - run.began)
            self._running.discard(run)
            self._late.discard(run)
            self._late_in_a_row = 0
            self._advance()
            self._changed.notify()

    def _patience(self, run: Run, timeout: float) -> float | None:
        """Return how many seconds to wait before checking a batch again, or None if the batch is late."""
        with self._changed:
            now = perf_counter()
            for other in [each for each in self._running if self._due(each, timeout) <= now]:
                self._give_up(other)
            if run in self._line and self._late_in_a_row >= self._lanes:
                self._leave_line(run)  # the network hung in every lane, so it would hang on this batch too
                return None
            if run in self._late:
                return None
            due = self._due(run, timeout)  # may now be earlier, because the loop above left fewer batches competing
            return min(max(due - now, 0.0) if due < math.inf else timeout, threading.TIMEOUT_MAX)

    def _due(self, run: Run, timeout: float) -> float:
        """Return the time at which a batch becomes late.

        The time is infinite while the batch is in line or the original network is running.
        """
        usual = max(run.original, self._share * self._contenders())
        return max(run.asked, run.began + TIMES_USUAL * usual) + timeout

    def _give_up(self, run: Run) -> None:
        self._running.remove(run)
        self._late.add(run)
        self._late_in_a_row += 1
        self._advance()
        self._changed.notify_all()

    def _leave_line(self, run: Run) -> None:
        if run in self._line:
            self._line.remove(run)
            self._changed.notify()
            self._shut_if_done()

    def _shut_if_done(self) -> None:
        if self.closed and not self._line:
            self._pool.shutdown(wait=False)
