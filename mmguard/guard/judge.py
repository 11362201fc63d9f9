"""Turns both networks' outputs for a batch into an answer, even if some rows of the batch cannot be judged."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from mmguard.bundle.manifest import Manifest
from mmguard.detection.margins import Readings
from mmguard.guard.answer import Head, Logits, guarded_outputs, with_rows_of
from mmguard.guard.decide import corrected_model, decide, passed, uncorrected, untested, with_rows
from mmguard.guard.failures import Failure, find_failures, inference_error
from mmguard.guard.metrics import Metrics
from mmguard.guard.policy import Policy
from mmguard.guard.ran import Ran
from mmguard.guard.second_look import OfMirrored, SecondLook
from mmguard.guard.sessions import NetworkOutput
from mmguard.types import BoolArray, Decision, IntArray, Reason

Outputs = dict[str, Any]


class Judge:
    """Judges a batch row by row. Rows that cannot be judged are counted, and answered according to the policy.

    Args:
        manifest: the bundle's manifest; if it contains no null, no input is tested.
        policy: what to do with flagged inputs and with inputs that cannot be tested.
        metrics: the metrics in which counts and times are recorded.
        head: function that computes the derived outputs; None if the model has no derived outputs.
    """

    def __init__(self, manifest: Manifest, policy: Policy, metrics: Metrics, head: Head | None) -> None:
        self._spec, self._policy, self._metrics, self._head = manifest.output, policy, metrics, head
        self._test = manifest.null.test() if manifest.null else None

    def __call__(
        self, ran: Ran, not_finite: BoolArray | None, mirrored: OfMirrored | None = None
    ) -> tuple[Decision, Outputs]:
        """Judge a batch.

        Args:
            ran: the outputs of both networks.
            not_finite: (N,) bool, True for inputs that contain NaN or infinity; None if all inputs are finite.
            mirrored: computes the clipped network's logits of mirror images; None to look at flagged inputs only once.

        Returns:
            The decision, and the model's own outputs with the policy applied.

        Raises:
            InferenceError: some rows cannot be judged or answered, and the policy is to raise an error.
        """
        start = perf_counter()
        screened = ran.screened
        if screened is not None and ran.clipped is None and not_finite is None:
            decision = passed(screened)
            self._metrics.took("test", screened.seconds + perf_counter() - start)
            self._metrics.count_passed(screened.p_values)
            return decision, ran.original.outputs
        if self._test is not None:
            self._metrics.count_held_back(len(ran.original.logits) if screened is None else screened.held_back.sum())
        decision, outputs = self._judge(ran, not_finite, mirrored)
        if self._test is not None:
            seconds = 0.0 if screened is None else screened.seconds
            self._metrics.took("test", seconds + perf_counter() - start)
        self._metrics.count(decision)
        return decision, outputs

    def _judge(self, ran: Ran, not_finite: BoolArray | None, mirrored: OfMirrored | None) -> tuple[Decision, Outputs]:
        """Judge a batch in which not every input passed."""
        failures = find_failures(ran, not_finite)
        self._handle(failures)
        failed = np.any([failure.rows for failure in failures], axis=0) if failures else None
        look = SecondLook(ran.clipped.logits, mirrored) if isinstance(ran.clipped, NetworkOutput) else None
        return self._outputs(ran, self._decide(ran, failed, look), look)

    def _handle(self, failures: Sequence[Failure], tested: bool = False) -> None:
        """Count the rows that failed, and raise an error if the policy is to raise an error.

        If `tested` is True, the rows were tested but could not be corrected, so they are not counted as untested.
        """
        policy = self._policy.when_untested
        for failure in failures:
            self._metrics.count_error(failure.kind)
            if policy == "raise":
                raise failure.error
            if not tested:
                self._metrics.count_untested(failure.kind, len(failure.error.rows))
            self._metrics.count_degraded(policy, len(failure.error.rows))

    def _decide(self, ran: Ran, failed: BoolArray | None, look: SecondLook | None) -> Decision:
        """Return the decision. `failed` (N,) is a mask of the rows that cannot be judged; None means no row."""
        logits = ran.original.logits
        if ran.screened is None and failed is None and look is not None:
            return self._test_rows(ran, np.arange(len(logits)), look)
        decision = untested(logits, self._policy) if ran.screened is None else passed(ran.screened)
        tested = np.ones(len(logits), np.bool_) if ran.screened is None else ran.screened.held_back.copy()
        if failed is not None:
            decision = with_rows(decision, failed, untested(logits[failed], self._policy))
            tested &= ~failed
        if look is not None and tested.any():
            decision = with_rows(decision, tested, self._test_rows(ran, np.flatnonzero(tested), look))
        return decision

    def _test_rows(self, ran: Ran, rows: IntArray, look: SecondLook) -> Decision:
        """Return the decision for some rows (n,), whose readings are finite. If the test fails, they are untested."""
        original, activations = ran.original.logits[rows], ran.original.activations
        try:
            read = Readings(original, look.logits[rows], None if activations is None else activations[rows])
            return self._decide_rows(read, look.within(rows))
        except Exception as error:
            every = np.zeros(len(ran.original.logits), np.bool_)
            every[rows] = True
            self._handle([Failure(inference_error("the test", error), every)])
            return untested(original, self._policy)

    def _decide_rows(self, read: Readings, look_again: Callable[[IntArray], Logits]) -> Decision:
        if self._test is None:
            return corrected_model(read.original, read.clipped, self._policy)
        return decide(read, self._test, self._policy, look_again)

    def _outputs(self, ran: Ran, decision: Decision, look: SecondLook | None) -> tuple[Decision, Outputs]:
        """Return the decision, and the outputs to which it was applied. Failed corrections are undone."""
        outputs = ran.original.outputs
        if self._policy.mode == "shadow":
            return decision, outputs
        if not isinstance(ran.clipped, NetworkOutput) or look is None:
            return decision, guarded_outputs(outputs, None, decision, self._spec, self._head)
        if self._test is None:
            outputs = with_rows_of(ran.clipped.outputs, outputs, decision.reasons == Reason.UNTESTED)
        try:
            return decision, guarded_outputs(outputs, look.logits, decision, self._spec, self._head)
        except Exception as error:
            self._handle([Failure(inference_error("the output head", error), decision.corrected)], tested=True)
            decision = uncorrected(decision, self._policy)
            return decision, guarded_outputs(outputs, None, decision, self._spec, self._head)
