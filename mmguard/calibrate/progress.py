"""How far a calibration is, and how long the rest will take: one account of all that it does, phase by phase."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

READING, LEARNING, AUDIT, WRITING = "reading", "learning", "audit", "writing"
"""Phases of a calibration, in their order."""

FORWARD = 1 / 3
"""Work of a forward pass alone, as a share of one with its gradient."""


@dataclass(frozen=True)
class Standing:
    """How far a calibration is.

    Attributes:
        phase: `reading`, `learning`, `audit` or `writing`.
        task: what is being done, in words.
        share: of all the work of this call, in [0, 1], measured in expected seconds.
        elapsed: seconds since the work began.
        remaining: estimated seconds until the bundle is written, over all phases; None before they can be estimated.
    """

    phase: str
    task: str
    share: float = 0.0
    elapsed: float = 0.0
    remaining: float | None = None


OnProgress = Callable[[Standing], None]

AT_THE_START = Standing(READING, "reading and checking the model and the clean inputs")


@dataclass(frozen=True)
class Task:
    """A part of the work.

    Attributes:
        phase, name: what it is, in words.
        kind: tasks of one kind take equally long for an input.
        inputs: inputs that pass through the network and back; a forward pass alone counts as `FORWARD`.
    """

    phase: str
    name: str
    kind: str
    inputs: float


@dataclass(frozen=True)
class Measured:
    """What one step of a kind of work took."""

    inputs: float
    seconds: float


class Schedule:
    """Tasks in their order, and what is left of them. Without tasks it counts nothing.

    An input is taken to cost what inputs of its kind cost on average so far, the measured step among them.

    Args:
        tasks: in order. steps: by kind of task, one step that was measured.
        on_progress: called whenever a task begins or gets on.
        clock: seconds from any start.
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
        """Go to the next task; what was left of the one before will not be done."""
        if self.tasks:
            if self._at >= 0:
                self._left[self._at] = 0
            self._at += 1
            self._last = self._clock()
            self.tell()

    def add(self, inputs: float) -> None:
        """Some inputs of the task have been done since the last call."""
        if self.tasks:
            now, kind = self._clock(), self.tasks[self._at].kind
            before = self._steps[kind]
            self._steps[kind] = Measured(before.inputs + inputs, before.seconds + now - self._last)
            self._left[self._at] = max(0.0, self._left[self._at] - inputs)
            self._last = now
            self.tell()

    def tell(self) -> None:
        """Call `on_progress`."""
        if self.tasks:
            task, remaining = self.tasks[self._at], self.seconds(self._left)
            whole = self.seconds([task.inputs for task in self.tasks])
            share = 1 - remaining / whole if whole > 0 else 0.0
            elapsed = self._clock() - self._started
            self._on_progress(Standing(task.phase, task.name, share, elapsed, remaining))

    def phases(self) -> dict[str, float]:
        """Estimated seconds of all tasks by phase."""
        totals: dict[str, float] = {}
        for task in self.tasks:
            totals[task.phase] = totals.get(task.phase, 0.0) + self._seconds(task, task.inputs)
        return totals

    def seconds(self, inputs: Sequence[float]) -> float:
        """Estimated seconds of so many inputs of each task."""
        return sum(self._seconds(task, some) for task, some in zip(self.tasks, inputs, strict=True))

    def _seconds(self, task: Task, inputs: float) -> float:
        step = self._steps[task.kind]
        return inputs * step.seconds / step.inputs
