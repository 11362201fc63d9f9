"""Cross-fitting: learn bounds from all of D, and clip each input of D with bounds learned without this input."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mmguard.calibrate.checkpoint.state import State, below, calibration_state, prefixed, restore_calibration
from mmguard.calibrate.learning.calibrator import Calibrator, OnRound, Round
from mmguard.calibrate.progress import FORWARD, Schedule
from mmguard.types import Calibration, IntArray

Array = npt.NDArray[np.float32]

Learner = Callable[[Array, Array | None], Calibrator]
"""Creates the calibrator for clean inputs (N, ...). The second argument is the original network's logits (N, K) on
these inputs, or None if they have not been computed."""


@dataclass(frozen=True)
class Listener:
    """Receives reports on the progress of cross-fitting.

    Attributes:
        on_round: called after every round of every run.
        keep: called before `on_round`, with a state from which a later call of `cross_fit` can continue.
        schedule: records when a task begins and how much of the task is done.
    """

    on_round: OnRound = lambda _: None
    keep: Callable[[State], None] = lambda _: None
    schedule: Schedule = field(default_factory=Schedule)


def cross_fit(
    learner: Learner,
    x: Array,
    labels: IntArray | None,
    folds: Sequence[IntArray],
    listener: Listener,
    state: State | None = None,
    original_logits: Array | None = None,
) -> Calibration:
    """Learn bounds from all of D, and then again for each fold from D without that fold.

    A null distribution that is fitted to the inputs from which the bounds were learned is too narrow, so more clean
    inputs would be flagged than the significance level allows. Cross-fitting therefore clips each input with bounds
    that were learned without this input. These bounds differ slightly from the returned bounds, which are learned from
    D as a whole.

    Args:
        learner: creates the calibrator for each run.
        x: (N, ...) float32, the clean inputs D.
        labels: (N,) int64, labels of D; None if D is unlabelled.
        folds: row numbers of each fold, as returned by `split_folds`. If there are no folds, `held_out_logits` are
            computed with the bounds that were learned from all of D.
        listener: receives the report on every round. Rounds are numbered across all runs.
        state: state to continue from, as passed to `Listener.keep`; if None, cross-fitting starts from the beginning.
        original_logits: (N, K) float32, logits of the original network on D; if None, the logits are computed.

    Returns:
        The calibration learned from all of D, with `held_out_logits` from the runs that left out each fold.
    """
    runs = [np.empty(0, np.int64), *folds]  # the rows that each run leaves out
    first, finished = (0, {}) if state is None else (int(state["run"]), below("finished/", state))
    reports = _Reports(len(runs), listener)
    for run, held_out in list(enumerate(runs))[first:]:
        listener.schedule.begin()
        kept = len(x) - len(held_out)
        known = original_logits if run == 0 else None
        calibrator = learner(np.delete(x, held_out, axis=0) if len(held_out) else x, known)
        listener.schedule.add((2 if known is None else 1) * FORWARD * kept)
        if state is not None and run == first:
            calibrator.restore(below("calibrator/", state))
        learned = calibrator.run(
            reports.of_run(run, calibrator, finished),
            None if labels is None else np.delete(labels, held_out),
            listener.schedule.add,
        )
        if run == 0:
            finished = calibration_state(learned)
        else:
            held_out_logits = finished["held_out_logits"].copy()
            held_out_logits[held_out] = calibrator.clipped_logits(x[held_out])
            finished = {**finished, "held_out_logits": held_out_logits}
        listener.schedule.add(FORWARD * kept)
    return restore_calibration(finished)


def split_folds(n: int, folds: int, seed: int) -> list[IntArray]:
    """Split the rows of D into folds at random.

    Args:
        n: number of inputs.
        folds: number of folds, reduced to `n` if there are fewer inputs than folds; if `folds` is 1, D is not split.
        seed: random seed of the split.

    Returns:
        Row numbers of each fold, int64; an empty list if D is not split.

    Example:
        >>> [len(fold) for fold in split_folds(10, 3, seed=0)]
        [4, 3, 3]
        >>> split_folds(10, 1, seed=0)
        []
    """
    return np.array_split(np.random.default_rng(seed).permutation(n), min(folds, n)) if folds > 1 else []


class _Reports:
    """Passes the report on each round to the listener, with rounds numbered across all runs."""

    def __init__(self, runs: int, listener: Listener) -> None:
        self._runs, self._listener = runs, listener
        self._start, self._done = time.perf_counter(), 0

    def of_run(self, run: int, calibrator: Calibrator, finished: State) -> OnRound:
        """Return the function to call after each round of one run."""

        def report(each: Round) -> None:
            self._done += 1
            own = prefixed("calibrator/", calibrator.state())
            self._listener.keep({"run": np.asarray(run), **prefixed("finished/", finished), **own})
            number, rounds = run * each.rounds + each.number, self._runs * each.rounds
            seconds = time.perf_counter() - self._start
            remaining = seconds / self._done * (rounds - number)
            self._listener.on_round(replace(each, number=number, rounds=rounds, seconds=seconds, remaining=remaining))
            self._listener.schedule.tell()

        return report
