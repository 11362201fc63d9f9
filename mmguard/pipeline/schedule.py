"""The phases of a calibration around what is learned: how long they will take, and the search for the audit.

from mmguard.calibrate.checkpoint.checkpoint import Checkpoint
from mmguard.settings.settings import Settings
from mmguard.calibrate.checkpoint.state import State
from mmguard.calibrate.effort import found_margins
from mmguard.calibrate.effort import measured_steps
from mmguard.calibrate.effort import tasks
from mmguard.calibrate.effort import with_margins
Imports PyTorch inside its functions: a serving container has none, and must be able to import this.
"""

import logging
import time

from mmguard.calibrate.checkpoint.checkpoint import Checkpoint
from mmguard.calibrate.checkpoint.state import State
from mmguard.calibrate.effort import found_margins, measured_steps, tasks, with_margins
from mmguard.calibrate.progress import AUDIT, LEARNING, WRITING, OnProgress, Schedule
from mmguard.pipeline.prepare import Subject
from mmguard.settings.settings import Settings
from mmguard.text.format import duration
from mmguard.types import Calibration, FloatArray

logger = logging.getLogger(__name__)

WORTH_SAYING, LONG = 5.0, 60.0
"""Seconds from which an estimate is said, and of the audit, that it can be left out."""


def schedule_of(
    subject: Subject,
    settings: Settings,
    seed: int,
    device: str,
    state: State | None,
    audit: bool,
    on_progress: OnProgress,
) -> Schedule:
    """All that is left to do, by one measured step of each kind of work; a line in the log says how long it will take.

    Args:
        seed, device, audit, on_progress: of the calibration.
        state: of the checkpoint that it goes on from.
    """
    axes = {activation.value: activation.axis for activation in subject.activations}
    schedule = Schedule(
        tasks(settings, subject.x, len(subject.classes), seed, audit, state),
        measured_steps(subject.graph, axes, subject.x, settings, device, time.perf_counter),
        on_progress,
        time.perf_counter,
    )
    seconds = schedule.phases()
    names = {LEARNING: "learning the bounds", AUDIT: "searching margins for the audit", WRITING: "writing the bundle"}
    whole = sum(seconds.values())
    if whole >= WORTH_SAYING:
        parts = ", ".join(f"{names[phase]} {duration(each)}" for phase, each in seconds.items())
        logger.info("this will take about %s, judging by one step of each kind: %s", duration(whole), parts)
    if seconds.get(AUDIT, 0) > max(LONG, whole / 2):
        logger.info("most of that is for the audit, which --no-audit leaves out")
    return schedule


def searched_margins(
    subject: Subject, learned: Calibration, checkpoint: Checkpoint, schedule: Schedule
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Maximum margins (K,) by scale, of the original and of the clipped network.

    Those that the checkpoint holds are not searched again; those that are searched are kept in it.
    """
    margins = {}
    for form, bounds in (("original", None), ("clipped", learned.bounds)):
        margins[form] = found_margins(checkpoint.state, form)
        if not margins[form]:
            schedule.begin()
            margins[form] = subject.margins(bounds, schedule.add)
            checkpoint.keep(with_margins(checkpoint.state, form, margins[form]))
    return margins["original"], margins["clipped"]
