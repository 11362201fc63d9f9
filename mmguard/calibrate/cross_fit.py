"""Bounds from all of the clean set, and beside them what bounds do to inputs that they were not learned from."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mmguard.calibrate.calibrator import Calibrator, OnRound, Round
from mmguard.types import Calibration, IntArray


def cross_fit(
    learner: Callable[[npt.NDArray[np.float32]], Calibrator],
    x: npt.NDArray[np.float32],
    labels: IntArray | None,
    folds: int,
    seed: int,
    on_round: OnRound,
) -> Calibration:
    """Learn from D, then once more without each part of it.

    A null that is fitted on the inputs that shaped the bounds is too narrow, and flags more clean inputs than its level
    says. Here each input meets bounds that never saw it; they differ a little from those that are kept.

    Args:
        learner: makes a calibrator of some clean inputs (N, ...).
        x: (N, ...) float32, D. labels: (N,) int64 or None.
        folds: parts of D, 1 for none: the clipped logits of D are then by the bounds learned from it.
        seed: of the parts.
        on_round: called after every round of every run.

    Returns:
        What was learned from all of D, with `held_out_logits` of the parts.
    """
    start, runs = time.perf_counter(), folds + 1 if folds > 1 else 1

    def counted(run: int) -> OnRound:
        def report(each: Round) -> None:
            number, seconds = run * each.rounds + each.number, time.perf_counter() - start
            rounds = runs * each.rounds
            remaining = seconds / number * (rounds - number)
            on_round(replace(each, number=number, rounds=rounds, seconds=seconds, remaining=remaining))

        return report

    learned = learner(x).run(counted(0), labels)
    if folds == 1:
        return learned
    held_out = np.empty_like(learned.clipped_logits)
    for run, part in enumerate(np.array_split(np.random.default_rng(seed).permutation(len(x)), folds), 1):
        rest = np.setdiff1d(np.arange(len(x)), part)
        calibrator = learner(x[rest])
        calibrator.learn(counted(run), None if labels is None else labels[rest])
        held_out[part] = calibrator.clipped_logits(x[part])
    return replace(learned, held_out_logits=held_out)
