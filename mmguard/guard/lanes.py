"""Where the clipped network runs: a few batches at once, the others in line; late ones are given up.

Waiting is not lateness. A batch in line costs its network nothing, and among many that run, each takes longer. So a
batch is late only where it ran far longer than batches take just now.
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
"""Batches that may be in flight, late ones among them: so what a hung network holds is bounded."""
MAX_WAIT = 30.0
"""Seconds that a batch waits for room among them before it is refused."""
TIMES_USUAL = 3
"""A batch is late that ran this many times as long as usual, and the policy's timeout besides."""
FORGETTING = 0.95
"""What the next batch leaves of the slowest one's weight: after 45 batches a tenth."""


class Run:
    """A batch that the clipped network is to answer.

    Attributes:
        job: gives the output.
        began: when it did, by `time.perf_counter`; it has not while it is in line.
        asked: when its output was first waited for, or given up: the original was done then.
        original: seconds that the original took.
        done: held until there is an output or an error.
        output: of the job. error: what it raised instead.
    """

    def __init__(self, job: Callable[[], Any]) -> None:
        self.job = job
        self.began, self.asked, self.original = math.inf, math.inf, 0.0
        self.done = threading.Lock()
        self.done.acquire()
        self.output: Any = None
        self.error: BaseException | None = None


class Lanes:
    """Runs batches in worker threads, first come, first served. Safe to call from many threads.

    Args:
        lanes: batches that run at once; more would only take each other's cores. One that is found late leaves its lane
            to the next.

    Attributes:
        closed: whether it lets nothing more in.
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

    def start(self, job: Callable[[], Any]) -> Run:
        """Let a batch in, once there is room.

        Raises:
            OverloadError: there was none for `MAX_WAIT` seconds.
            LateError: all batches in flight are late, so the network hangs.
            InferenceError: the guard is closed.
        """
        run = Run(job)
        with self._changed:
            room = self._may_enter() or self._changed.wait_for(self._may_enter, MAX_WAIT)
            if self.closed:
                raise InferenceError("the guard is closed")
            if len(self._late) >= MAX_PENDING:
                raise LateError(f"the clipped network hangs: {MAX_PENDING} batches are late and not done yet")
            if not room:
                raise OverloadError(
                    f"{MAX_PENDING} batches are in flight, and for {MAX_WAIT:g} s there was no room for another; send "
                    "fewer at once, or serve from more machines"
                )
            self._line.append(run)
            self._advance()
        return run

    def result(self, run: Run, timeout: float | None, original: float) -> Any:
        """Wait for a batch's output, from when the original has answered the same batch.

        Args:
            timeout: seconds that it may take from now, and beyond what is usual; None waits on.
            original: seconds that the original took.

        Raises:
            LateError: it took longer.
            BaseException: what the job raised.
        """
        run.asked, run.original = perf_counter(), original
        self._learn(original)
        rest = -1.0 if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        while not run.done.acquire(timeout=rest):
            assert timeout is not None
            left = self._patience(run, timeout)
            if left is None:
                raise LateError(
                    f"the clipped network was not done {timeout:g} s after the original, nor in {TIMES_USUAL} times as "
                    "long as a batch takes just now"
                )
            rest = left
        if run.error is not None:
            raise run.error
        return run.output

    def drop(self, run: Run) -> None:
        """Take a batch whose output nobody wants any more out of the line. One that is running is left to end."""
        run.asked = perf_counter()
        with self._changed:
            self._leave_line(run)

    def close(self) -> None:
        """Take no more batches, and end the threads once those in flight are done."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            self._shut_if_done()

    def _may_enter(self) -> bool:
        in_flight = len(self._line) + len(self._running) + len(self._late)
        return self.closed or in_flight < MAX_PENDING or len(self._late) >= MAX_PENDING

    def _learn(self, seconds: float) -> None:
        """Remember the slowest batch lately, of either network, by its share of a machine that so many batches use."""
        self._share = max(seconds / self._contenders(), FORGETTING * self._share)

    def _contenders(self) -> int:
        """Batches that use the machine; late ones are taken to stand still."""
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
        """Run what the lanes have room for."""
        while self._line and len(self._running) < self._lanes:
            run = self._line.popleft()
            run.began = perf_counter()
            self._running.add(run)
            try:
                self._pool.submit(self._work, run)
            except RuntimeError as error:  # the interpreter ends, and who waits must not keep it from that
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
        """Seconds to wait for a batch before its case is looked at again; None if it is late."""
        with self._changed:
            now = perf_counter()
            for other in [each for each in self._running if self._due(each, timeout) <= now]:
                self._give_up(other)
            if run in self._line and self._late_in_a_row >= self._lanes:
                self._leave_line(run)  # the network hangs in every lane: why should it not with this one?
                return None
            if run in self._late:
                return None
            due = self._due(run, timeout)  # earlier than above where others were given up since
            return min(max(due - now, 0.0) if due < math.inf else timeout, threading.TIMEOUT_MAX)

    def _due(self, run: Run, timeout: float) -> float:
        """When a batch will be late; never while it is in line, or before the original is done."""
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
