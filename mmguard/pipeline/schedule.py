"""Estimates how long a calibration will take, and searches for the maximum margins that the audit needs."""

import logging
import time

from mmguard.calibrate.checkpoint.checkpoint import Checkpoint
from mmguard.calibrate.checkpoint.state import State
from mmguard.calibrate.progress import AUDIT, LEARNING, WRITING, OnProgress, Schedule
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

Margins = tuple[dict[str, FloatArray], dict[str, FloatArray]]
"""Maximum margins (K,) by scale, of the original and of the clipped network."""


def schedule_of(prepared: PreparedCalibration, state: State | None, on_progress: OnProgress) -> Schedule:
    """Return the schedule of the remaining work, estimated from one measured step of each kind, and log the estimate.

    Args:
        prepared: the model and the calibration set.
        state: state of the checkpoint that the calibration resumes from; None if it starts from the beginning.
        on_progress: called whenever a part of the work is done.
    """
    request = prepared.request
    schedule = Schedule(
        tasks(request.settings, prepared.x, len(prepared.classes), request.seed, request.audit, state),
        measured_steps(prepared.graph, prepared.axes, prepared.x, request.settings, request.device, time.perf_counter),
        on_progress,
        time.perf_counter,
    )
    seconds = schedule.phases()
    total = sum(seconds.values())
    if total >= WORTH_LOGGING:
        parts = ", ".join(f"{PHASES[phase]} {duration(each)}" for phase, each in seconds.items())
        logger.info("estimated time: about %s (%s)", duration(total), parts)
    if seconds.get(AUDIT, 0) > max(LONG_AUDIT, total / 2):
        logger.info("the audit takes most of the estimated time; pass --no-audit to skip the audit")
    return schedule


def searched_margins(
    prepared: PreparedCalibration, learned: Calibration, checkpoint: Checkpoint, schedule: Schedule
) -> Margins | None:
    """Return the maximum margins of both networks, from the checkpoint if it contains them, otherwise from a search.

    Args:
        prepared: the model and the calibration set.
        learned: the bounds.
        checkpoint: checkpoint to which newly found margins are added.
        schedule: schedule that is updated after each pass.

    Returns:
        The margins; None if the audit is skipped.
    """
    if not prepared.request.audit:
        return None
    margins = {}
    for form, bounds in (("original", None), ("clipped", learned.bounds)):
        margins[form] = found_margins(checkpoint.state, form)
        if not margins[form]:
            schedule.begin()
            margins[form] = prepared.maximum_margins(bounds, schedule.add)
            checkpoint.keep(with_margins(checkpoint.state, form, margins[form]))
    return margins["original"], margins["clipped"]
