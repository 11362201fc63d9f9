"""Track how far a calibration has progressed, and estimate how long its remaining phases will take."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

READING, LEARNING, AUDIT, WRITING = "reading", "learning", "audit", "writing"
"""Phases of a calibration, in order."""

FORWARD = 1 / 3
"""Work of a forward pass, as a fraction of the combined work of a forward and a backward pass."""


@dataclass(frozen=True)
class Progress:
    """How far a calibration has progressed.

    Attributes:
        phase: `reading`, `learning`, `audit` or `writing`.
        task: description of the current task, such as `learning from all clean inputs`.
        share: completed fraction of the work, in [0, 1], weighted by expected duration. If the calibration was resumed,
            work done before the interruption is not counted.
        elapsed: seconds since the work began.
        remaining: estimated seconds until all phases are finished and the bundle is written; None if there is no
            estimate yet.
    """

    phase: str
    task: str
    share: float = 0.0
    elapsed: float = 0.0
    remaining: float | None = None


OnProgress = Callable[[Progress], None]

AT_THE_START = Progress(READING, "reading and checking the model and the calibration set")


@dataclass(frozen=True)
class Task:
    """A part of the work.

    Attributes:
        phase: phase that the task belongs to.
        name: description of the task, such as `learning from all clean inputs`.
        kind: kind of task; tasks of the same kind take the same time per input.
        inputs: number of inputs that pass forward and backward through the network; a forward pass alone counts as
            `FORWARD`.
    """

    phase: str
    name: str
    kind: str
    inputs: float


@dataclass(frozen=True)
class Measured:
    """A timed piece of work.

    Attributes:
        inputs: number of inputs that passed forward and backward through the network.
        seconds: duration of the work.
    """

    inputs: float
    seconds: float


class Schedule:
    """Tracks how much of each task is left. A schedule without tasks does nothing.

    The time per input is averaged over all work of the same kind so far, including the step that was measured in
    advance.

    Args:
        tasks: tasks in order.
        steps: one measured step for each kind of task.
        on_progress: called whenever a task begins or advances.
        clock: function that returns the number of seconds since a fixed point in time.

    Attributes:
        tasks: tasks in order.
    """

    def __init__(
        self,
        tasks: Sequence[Task] = (),
        steps: Mapping[str, Measured] | None = None,
        on_progress: OnProgress = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.tasks = tuple(tasks)
        self._left = [task.inputs for task in tasks]
        self._steps = dict(steps or {})
        self._at = -1
        self._on_progress, self._clock = on_progress, clock
        self._started = self._last = clock()

    def begin(self) -> None:
        """Move on to the next task; the rest of the current task counts as done."""
        if self.tasks:
            if self._at >= 0:
                self._left[self._at] = 0
            self._at += 1
            self._last = self._clock()
            self.tell()

    def add(self, inputs: float) -> None:
        """Record work on the current task.

        Args:
            inputs: number of inputs processed since the last call.
        """
        if self.tasks:
            now, kind = self._clock(), self.tasks[self._at].kind
            before = self._steps[kind]
            self._steps[kind] = Measured(before.inputs + inputs, before.seconds + now - self._last)
            self._left[self._at] = max(0.0, self._left[self._at] - inputs)
            self._last = now
            self.tell()

    def rate(self, kind: str) -> float:
        """Return how long a unit of work takes, averaged over all work of this kind so far.

        Args:
            kind: kind of task.

        Returns:
            Seconds per unit of work; 0 without tasks.
        """
        step = self._steps.get(kind)
        return 0.0 if step is None else step.seconds / max(step.inputs, 1e-12)

    def tell(self) -> None:
        """Call `on_progress` with the current progress."""
        if self.tasks:
            task, remaining = self.tasks[self._at], self.seconds(self._left)
            whole = self.seconds([task.inputs for task in self.tasks])
            share = 1 - remaining / whole if whole > 0 else 0.0
            elapsed = self._clock() - self._started
            self._on_progress(Progress(task.phase, task.name, share, elapsed, remaining))

    def phases(self) -> dict[str, float]:
        """Estimate the duration of each phase.

        Returns:
            Estimated seconds, by phase.
        """
        totals: dict[str, float] = {}
        for task in self.tasks:
            totals[task.phase] = totals.get(task.phase, 0.0) + self._seconds(task, task.inputs)
        return totals

    def seconds(self, inputs: Sequence[float]) -> float:
        """Estimate the total duration of the given amounts of work.

        Args:
            inputs: number of inputs for each task, in order.

        Returns:
            Seconds, summed over all tasks.
        """
        return sum(self._seconds(task, some) for task, some in zip(self.tasks, inputs, strict=True))

    def _seconds(self, task: Task, inputs: float) -> float:
        step = self._steps[task.kind]
        return inputs * step.seconds / step.inputs
