"""Estimates how long a calibration will take, and searches for the maximum margins that the audit needs."""

import logging
import math
import time
from dataclasses import dataclass, field, replace

import numpy as np

from mmguard.calibrate.audit.plan import MARGIN, TimeBudget, least_work
from mmguard.calibrate.audit.search import Found, known_classes
from mmguard.calibrate.checkpoint.checkpoint import Checkpoint
from mmguard.calibrate.checkpoint.state import State
from mmguard.calibrate.progress import AUDIT, LEARNING, WRITING, Measured, OnProgress, Schedule, Task
from mmguard.calibrate.workload import found_margins, measured_steps, tasks, with_margins
from mmguard.pipeline.prepare import PreparedCalibration
from mmguard.text.format import duration
from mmguard.types import Calibration, FloatArray

logger = logging.getLogger(__name__)

PHASES = {LEARNING: "learning the bounds", AUDIT: "searching for the largest margins", WRITING: "writing the bundle"}
WORTH_LOGGING = 5.0
"""The estimated time is logged if it is at least this many seconds."""
LONG_AUDIT = 60.0
"""If the audit takes more than half of the estimated time and more than this many seconds, the log suggests skipping
the audit."""

ORIGINAL_SHARE = 0.45
"""Share of the audit's time for the search on the original network. The search on the clipped network takes the same
steps, and up to a fifth more time."""


@dataclass(frozen=True)
class Margins:
    """The results of the audit's search; empty if the audit is skipped.

    Attributes:
        original: maximum margins (K,) of the original network by scale.
        clipped: the same for the clipped network, with the same keys.
        cut: names of the scales that the time budget shortened or left out.
    """

    original: dict[str, FloatArray] = field(default_factory=dict)
    clipped: dict[str, FloatArray] = field(default_factory=dict)
    cut: tuple[str, ...] = ()


def schedule_of(prepared: PreparedCalibration, state: State | None, on_progress: OnProgress) -> Schedule:
    """Return the schedule of the remaining work, estimated from one measured step of each kind, and log the estimate.

    Args:
        prepared: the model and the calibration set.
        state: state of the checkpoint that the calibration resumes from; None if it starts from the beginning.
        on_progress: called whenever a part of the work is done.
    """
    request, classes = prepared.request, len(prepared.classes)
    known = known_classes(prepared.original_logits.argmax(axis=1), classes) if request.audit else None
    steps = measured_steps(
        prepared.graph, prepared.axes, prepared.x, request.settings, request.device, time.perf_counter
    )
    work = tasks(request.settings, prepared.x, classes, request.seed, known, state)
    budget = 30 * request.audit_minutes  # for each of the two networks
    schedule = Schedule(
        [_within(task, steps[task.kind], budget) for task in work], steps, on_progress, time.perf_counter
    )
    seconds = schedule.phases()
    total = sum(seconds.values())
    if total >= WORTH_LOGGING:
        parts = ", ".join(f"{PHASES[phase]} {duration(each)}" for phase, each in seconds.items())
        logger.info("estimated time: about %s (%s)", duration(total), parts)
    if seconds.get(AUDIT, 0) > max(LONG_AUDIT, total / 2):
        logger.info("the audit takes most of the estimated time; pass fewer --audit-minutes, or --no-audit to skip it")
    return schedule


def _within(task: Task, step: Measured, seconds: float) -> Task:
    """Limit the work of a task of the audit to what the time budget allows."""
    most = seconds * step.inputs / max(step.seconds, 1e-12)
    return replace(task, inputs=min(task.inputs, most)) if task.phase == AUDIT else task


def searched_margins(
    prepared: PreparedCalibration, learned: Calibration, checkpoint: Checkpoint, schedule: Schedule
) -> Margins:
    """Return the maximum margins of both networks, from the checkpoint if it contains them, otherwise from a search.

    The search on the clipped network takes the same steps as the search on the original network, so that the margins
    can be compared.

    Args:
        prepared: the model and the calibration set.
        learned: the bounds.
        checkpoint: checkpoint to which newly found margins are added.
        schedule: schedule that is updated after each pass.

    Returns:
        The margins.
    """
    request = prepared.request
    if not request.audit:
        return Margins()
    original, clipped = (found_margins(checkpoint.state, form) for form in ("original", "clipped"))
    if original is None:
        schedule.begin()
        seconds = ORIGINAL_SHARE * 60 * request.audit_minutes
        budget = TimeBudget(seconds, schedule.rate("original"), time.perf_counter)
        original = prepared.maximum_margins(None, schedule.add, budget)
        checkpoint.keep(with_margins(checkpoint.state, "original", original))
        needed = least_work(len(prepared.classes)) * schedule.rate("original") / MARGIN / ORIGINAL_SHARE / 60
        _log_cut(original, request.audit_minutes, needed)
    if clipped is None:
        schedule.begin()
        clipped = prepared.maximum_margins(learned.bounds, schedule.add, shares=original.shares)
        checkpoint.keep(with_margins(checkpoint.state, "clipped", clipped))
    # Clipping can leave classes without inputs, so that the scale `orthogonal` is missing.
    same = {name: clipped.margins.get(name, np.zeros(len(each))) for name, each in original.margins.items()}
    return Margins(original.margins, same, original.cut)


def _log_cut(found: Found, minutes: float, needed: float) -> None:
    """Warn of what a search of `minutes` left out; the shortest search takes the minutes `needed`."""
    if not found.margins:
        logger.warning(
            "warning: %g minutes are too few for any of the audit's search, so the audit has no verdict; on this "
            "machine, it needs --audit-minutes %d or more",
            *(minutes, math.ceil(max(needed, minutes))),
        )
    elif found.cut:
        short = [name for name in found.cut if found.shares[name]]
        absent = [name for name in found.cut if not found.shares[name]]
        logger.warning(
            "warning: %g minutes are too few for all of the audit's search: shortened %s, left out %s; "
            "the audit may miss a backdoor that it would find with more --audit-minutes",
            *(minutes, ", ".join(short) or "nothing", ", ".join(absent) or "nothing"),
        )
