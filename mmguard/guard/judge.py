"""From what two networks say of a batch to what is answered: the test, the policy, and what fails."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from mmguard.bundle.manifest import Manifest
from mmguard.errors import InferenceError
from mmguard.guard.answer import Head, Logits, guarded_outputs, with_rows_of
from mmguard.guard.decide import corrected_model, decide, decide_rows, uncorrected, untested
from mmguard.guard.failures import Failure, failed, find_failures
from mmguard.guard.metrics import Metrics
from mmguard.guard.policy import Policy
from mmguard.guard.sessions import NetworkOutput
from mmguard.types import BoolArray, Decision, Reason

Outputs = dict[str, Any]


class Judge:
    """Judges the rows of a batch one by one; what cannot be judged is answered by the policy, and counted.

    Args:
        manifest: the bundle's; without a null there is no test.
        head: computes the derived outputs; None where there are none.
    """

    def __init__(self, manifest: Manifest, policy: Policy, metrics: Metrics, head: Head | None) -> None:
        self._spec, self._policy, self._metrics, self._head = manifest.output, policy, metrics, head
        self._test = manifest.null.test() if manifest.null else None

    def __call__(
        self, original: NetworkOutput, clipped: NetworkOutput | InferenceError, not_finite: BoolArray | None
    ) -> tuple[Decision, Outputs]:
        """Judge a batch.

        Args:
            original: what the original network says.
            clipped: what the clipped network says, or why it says nothing.
            not_finite: (N,) bool, inputs that hold NaN or infinity; None if there are none.

        Returns:
            The decision, and the model's own outputs with the policy applied.

        Raises:
            InferenceError: rows cannot be judged or answered, and the policy is to raise.
        """
        start = perf_counter()
        failures = find_failures(original, clipped, not_finite)
        self._fail(failures)
        judged = ~np.any([failure.rows for failure in failures], axis=0) if failures else None
        decision = self._decide(original, clipped, judged)
        decision, outputs = self._outputs(original, clipped, decision)
        if self._test is not None:
            self._metrics.took("test", perf_counter() - start)
        self._metrics.count(decision)
        return decision, outputs

    def _fail(self, failures: Sequence[Failure], tested: bool = False) -> None:
        """Count rows that could not be judged, or were but cannot be answered so; raise where that is the policy."""
        policy = self._policy.when_untested
        for failure in failures:
            self._metrics.count_error(failure.kind)
            if policy == "raise":
                raise failure.error
            if not tested:
                self._metrics.count_untested(failure.kind, len(failure.error.rows))
            self._metrics.count_degraded(policy, len(failure.error.rows))

    def _decide(
        self, original: NetworkOutput, clipped: NetworkOutput | InferenceError, judged: BoolArray | None
    ) -> Decision:
        """The decision of a batch, of which only the rows `judged` (N,) can be judged, or all where that is None."""
        if isinstance(clipped, InferenceError):
            return untested(original.logits, self._policy)
        try:
            if judged is None:
                return self._of_logits(original.logits, clipped.logits)
            return decide_rows(original.logits, clipped.logits, judged, self._of_logits, self._policy)
        except Exception as error:
            rows = np.ones(len(original.logits), np.bool_) if judged is None else judged
            self._fail([Failure(failed("the test", error), rows)])
            return untested(original.logits, self._policy)

    def _of_logits(self, original: Logits, clipped: Logits) -> Decision:
        if self._test is None:
            return corrected_model(original, clipped, self._policy)
        return decide(original, clipped, self._test, self._policy)

    def _outputs(
        self, original: NetworkOutput, clipped: NetworkOutput | InferenceError, decision: Decision
    ) -> tuple[Decision, Outputs]:
        """The decision as it could be carried out, and the outputs that carry it."""
        outputs = original.outputs
        if self._policy.mode == "shadow":
            return decision, outputs
        if isinstance(clipped, InferenceError):
            return decision, guarded_outputs(outputs, None, decision, self._spec, self._head)
        if self._test is None:
            outputs = with_rows_of(clipped.outputs, outputs, decision.reasons == Reason.UNTESTED)
        try:
            return decision, guarded_outputs(outputs, clipped.logits, decision, self._spec, self._head)
        except Exception as error:
            self._fail([Failure(failed("what follows the logits", error), decision.corrected)], tested=True)
            decision = uncorrected(decision, self._policy)
            return decision, guarded_outputs(outputs, None, decision, self._spec, self._head)
