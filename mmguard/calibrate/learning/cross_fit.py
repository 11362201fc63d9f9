"""Bounds from all of the clean set, and beside them what bounds do to inputs that they were not learned from."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mmguard.calibrate.checkpoint.state import State, below, calibration_state, prefixed, restore_calibration
from mmguard.calibrate.learning.calibrator import Calibrator, OnRound, Round
from mmguard.calibrate.progress import FORWARD, Schedule
from mmguard.types import Calibration, IntArray

Keep = Callable[[State], None]


def cross_fit(
    learner: Callable[[npt.NDArray[np.float32]], Calibrator],
    x: npt.NDArray[np.float32],
    labels: IntArray | None,
    folds: int,
    seed: int,
    on_round: OnRound,
    keep: Keep | None = None,
    state: State | None = None,
    schedule: Schedule | None = None,
) -> Calibration:
    """Learn from D, then once more without each part of it.

    A null that is fitted on the inputs that shaped the bounds is too narrow, and flags more clean inputs than its level
    says. Here each input meets bounds that never saw it; they differ a little from those that are kept.

    Args:
        learner: makes a calibrator of some clean inputs (N, ...).
        x: (N, ...) float32, D. labels: (N,) int64 or None.
        folds: parts of D, no more than inputs; 1 for none: clipped logits of D are then by the bounds learned from it.
        seed: of the parts.
        on_round: called after every round of every run. Its remaining seconds are those of the rounds, by the rounds
            run here.
        keep: called before that, with all that a later call can go on from.
        state: what such a call was given; None starts from the beginning.
        schedule: whose next tasks the runs are, and what is told how they get on.

    Returns:
        What was learned from all of D, with `held_out_logits` of the parts.
    """
    start, done, schedule = time.perf_counter(), 0, schedule or Schedule()
    parts = [np.empty(0, np.int64), *parts_of(len(x), folds, seed)]  # what each run leaves out
    first, finished = (0, {}) if state is None else (int(state["run"]), below("finished/", state))

    def counted(run: int, calibrator: Calibrator) -> OnRound:
        def report(each: Round) -> None:
            nonlocal done
            done += 1
            if keep is not None:
                own = prefixed("calibrator/", calibrator.state())
                keep({"run": np.asarray(run), **prefixed("finished/", finished), **own})
            number, seconds = run * each.rounds + each.number, time.perf_counter() - start
            rounds = len(parts) * each.rounds
            remaining = seconds / done * (rounds - number)
            on_round(replace(each, number=number, rounds=rounds, seconds=seconds, remaining=remaining))
            schedule.tell()

        return report

    for run, part in list(enumerate(parts))[first:]:
        schedule.begin()
        calibrator = learner(np.delete(x, part, axis=0) if len(part) else x)
        schedule.add(2 * FORWARD * (len(x) - len(part)))
        if state is not None and run == first:
            calibrator.restore(below("calibrator/", state))
        learned = calibrator.run(
            *(counted(run, calibrator), None if labels is None else np.delete(labels, part), schedule.add)
        )
        if run == 0:
            finished = calibration_state(learned)
        else:
            held_out = finished["held_out_logits"].copy()
            held_out[part] = calibrator.clipped_logits(x[part])
            finished = {**finished, "held_out_logits": held_out}
        schedule.add(FORWARD * (len(x) - len(part)))
    return restore_calibration(finished)


def parts_of(n: int, folds: int, seed: int) -> list[IntArray]:
    """Rows of each part of n inputs, int64, drawn anew by the seed; none where there is one fold."""
    return np.array_split(np.random.default_rng(seed).permutation(n), min(folds, n)) if folds > 1 else []
