"""Runs the networks on a batch: side by side, or the clipped network afterwards, on what the screen holds back."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.detection.margins import OriginalReadings
from mmguard.detection.screen import Screen
from mmguard.errors import InferenceError, LateError, OverloadError
from mmguard.guard.answer import own_copy
from mmguard.guard.failures import KINDS, inference_error
from mmguard.guard.lanes import CLIPPED, Run
from mmguard.guard.metrics import Metrics
from mmguard.guard.networks import NetworkPair
from mmguard.guard.policy import Policy
from mmguard.guard.ran import Ran, Screened
from mmguard.guard.sessions import Logits, NetworkOutput, check_rows
from mmguard.inputs.batch_checks import rows_not_finite
from mmguard.types import BoolArray, IntArray

Batch = npt.NDArray[Any]
Predictor = Callable[[Batch], NetworkOutput]


class Runner:
    """Runs the networks of a bundle on batches. Safe to call from many threads.

    Args:
        networks: the networks.
        reads_activations: whether the bundle's test reads activations.
        screen: decides on which inputs the clipped network runs; None runs it on every input, beside the original.
        policy: the policy; its mode and timeout are used.
        metrics: the metrics in which times and errors are recorded.
    """

    def __init__(
        self, networks: NetworkPair, reads_activations: bool, screen: Screen | None, policy: Policy, metrics: Metrics
    ) -> None:
        self._networks, self._reads_activations, self._screen = networks, reads_activations, screen
        self._policy, self._metrics = policy, metrics

    def __call__(self, x: Batch, not_finite: BoolArray | None, predictor: Predictor | None) -> Ran:
        """Run both networks, or a predictor in place of the original network.

        Args:
            x: inputs, (N, ...).
            not_finite: (N,) bool, True for inputs that contain NaN or infinity; None if all inputs are finite.
            predictor: called with a copy of `x` in place of the bundle's original network; None runs the original.

        Returns:
            The outputs.

        Raises:
            InferenceError: the original network failed, or the guard is closed.
            OverloadError: too many batches are in flight. Not raised in shadow mode.
            Exception: any exception that the predictor raised.
        """
        own = _for_clipped(x, not_finite, shared=predictor is None)
        unseen = predictor is not None and self._reads_activations
        if self._screen is None:
            return self._side_by_side(x, own, predictor, unseen)
        self._networks.lanes.require_open()
        run = self._start(partial(self._run_activations, own), "the original network") if unseen else None
        original, seconds = self._answer(x, predictor, run)
        if run is not None:
            shown = self._result(run, seconds)
            if isinstance(shown, InferenceError):
                return Ran(original, shown)
            original = replace(original, activations=shown.activations)
        screened = self._look(self._screen, original, not_finite)
        held_back = screened.held_back if not_finite is None else screened.held_back & ~not_finite
        return Ran(original, self._run_held_back(own, original, held_back, seconds), screened)

    def mirrored(self, x: Batch, axis: int, rows: IntArray) -> Logits | None:
        """Run the clipped network on mirror images.

        Args:
            x: inputs, (N, ...).
            axis: axis along which inputs are mirrored.
            rows: (n,) the rows to mirror.

        Returns:
            The logits (n, K); None if the clipped network failed, which is counted.
        """
        images = np.ascontiguousarray(np.flip(x[rows], axis))
        try:
            output = self._finish(partial(self._networks.clipped, images), 0.0)
        except OverloadError:  # which is counted already
            return None
        if isinstance(output, InferenceError):
            self._metrics.count_error(KINDS.get(type(output), "inference"))
            return None
        return output.logits

    def _side_by_side(self, x: Batch, own: Batch, predictor: Predictor | None, unseen: bool) -> Ran:
        """Run the clipped network on a worker thread, and meanwhile the original network or the predictor."""
        run = self._start(partial(self._run_clipped, own, unseen))
        original, seconds = self._answer(x, predictor, run)
        clipped = self._result(run, seconds)
        if isinstance(clipped, NetworkOutput) and original.activations is None:
            original = replace(original, activations=clipped.activations)
        return Ran(original, clipped)

    def _look(self, screen: Screen, original: NetworkOutput, not_finite: BoolArray | None) -> Screened:
        """Screen a batch. What is not finite is held back, and all else too if the screen fails; the test says why."""
        start = perf_counter()
        finite = all(values is None or np.isfinite(values).all() for values in (original.logits, original.activations))
        with nullcontext() if finite else np.errstate(all="ignore"):
            try:
                read = OriginalReadings(original.logits, original.activations)
                decisions, p_values = read.decisions, screen.p_values(read)
            except Exception:
                decisions, p_values = original.logits.argmax(axis=1), np.full(len(original.logits), np.nan)
        held_back = screen.held_back(p_values)
        if not finite:
            held_back |= rows_not_finite(original.logits)  # even a logit of -inf, which no margin shows
        if not_finite is not None:
            held_back |= not_finite
        return Screened(decisions, p_values, held_back, perf_counter() - start)

    def _run_held_back(
        self, own: Batch, original: NetworkOutput, held_back: BoolArray, seconds: float
    ) -> NetworkOutput | InferenceError | None:
        """Run the clipped network on some rows (N,), if any; the original took `seconds` seconds for all N rows."""
        if not held_back.any():
            return None
        rows = np.flatnonzero(held_back)
        everything = len(rows) == len(own)
        clipped = self._finish(partial(self._run_clipped, own if everything else own[rows], False), seconds)
        if isinstance(clipped, InferenceError) or everything:
            return clipped
        logits = original.logits.copy()
        logits[rows] = clipped.logits
        return NetworkOutput({}, logits)

    def _finish(self, job: Callable[[], NetworkOutput], seconds: float) -> NetworkOutput | InferenceError:
        """Run the clipped network on a worker thread, or here if the guard was closed during this call."""
        try:
            return self._result(self._start(job), seconds)
        except OverloadError:
            raise
        except InferenceError:
            try:
                return job()
            except Exception as error:
                return inference_error(CLIPPED, error)

    def _answer(
        self, x: Batch, predictor: Predictor | None, run: Run | InferenceError | None
    ) -> tuple[NetworkOutput, float]:
        """Run the original network or a predictor; return its output and the seconds it took, or drop `run`."""
        start = perf_counter()
        try:
            answer = self._networks.original(x) if predictor is None else self._call(predictor, x)
        except Exception:  # a wrapped predictor can raise anything
            if isinstance(run, Run):
                self._networks.lanes.drop(run)
            self._metrics.count_error("inference")
            raise
        seconds = perf_counter() - start
        self._metrics.took("original", seconds)
        return answer, seconds

    def _call(self, predictor: Predictor, x: Batch) -> NetworkOutput:
        answer = predictor(x.copy(order="K"))
        logits = check_rows("logits", answer.logits, len(x), self._networks.classes)
        return NetworkOutput(own_copy(answer.outputs), logits.copy())

    def _run_clipped(self, x: Batch, with_activations: bool) -> NetworkOutput:
        start = perf_counter()
        output = self._networks.clipped(x)
        if with_activations:
            output = replace(output, activations=self._networks.original(x).activations)
        self._metrics.took("clipped", perf_counter() - start)
        return output

    def _run_activations(self, x: Batch) -> NetworkOutput:
        start = perf_counter()
        output = self._networks.original(x)
        self._metrics.took("activations", perf_counter() - start)
        return output

    def _start(self, job: Callable[[], NetworkOutput], what: str = CLIPPED) -> Run | InferenceError:
        try:
            return self._networks.lanes.start(job, what)
        except LateError as error:
            return error
        except OverloadError as error:
            if self._policy.mode == "shadow":
                return error
            self._metrics.count_error("overload")
            raise

    def _result(self, run: Run | InferenceError, seconds: float) -> NetworkOutput | InferenceError:
        """Return the output of a run, or its error. The original network took `seconds` seconds beside it."""
        if isinstance(run, InferenceError):
            return run
        try:
            output: NetworkOutput = self._networks.lanes.result(run, self._policy.timeout, seconds)
        except Exception as error:
            return inference_error(run.what, error)
        return output


def _for_clipped(x: Batch, not_finite: BoolArray | None, shared: bool) -> Batch:
    """Return the batch for the clipped network: `x` itself, or a copy if `x` may change or is not finite.

    In the copy, rows that are not finite are zeros, because a network may quantise its inputs by the range of the whole
    batch, and NaN or infinity in one row would then change the results of all other rows.
    """
    if shared and not_finite is None:
        return x
    own = np.array(x, order="C")
    if not_finite is not None:
        own[not_finite] = 0
    return own
