"""Turns both networks' outputs for a batch into an answer, even if some rows of the batch cannot be judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from mmguard.bundle.manifest import Manifest
from mmguard.detection.margins import Readings
from mmguard.errors import InferenceError, InputError, LateError, LogitsError, OverloadError
from mmguard.guard.answer import Head, Logits, guarded_outputs, with_rows_of
from mmguard.guard.decide import corrected_model, decide, decide_rows, uncorrected, untested
from mmguard.guard.metrics import Metrics
from mmguard.guard.policy import Policy
from mmguard.guard.second_look import OfMirrored, SecondLook
from mmguard.guard.sessions import NetworkOutput
from mmguard.inputs.batch_checks import rows_are, rows_not_finite
from mmguard.types import BoolArray, Decision, IntArray, Reason

Outputs = dict[str, Any]
KINDS: dict[type[Exception], str] = {LateError: "timeout", OverloadError: "overload", InputError: "input"}


@dataclass(frozen=True)
class Failure:
    """Why some rows of a batch cannot be judged.

    Attributes:
        error: the error that describes the failure; its attribute `rows` contains the indices of the rows that cannot
            be judged. The error is raised if the policy is to raise an error.
        rows: (N,) bool, the rows that cannot be judged.
    """

    error: InferenceError | InputError
    rows: BoolArray

    def __post_init__(self) -> None:
        self.error.rows = tuple(np.flatnonzero(self.rows).tolist())

    @property
    def kind(self) -> str:
        """The kind of error, one of `mmguard.guard.metrics.ERROR_KINDS`."""
        return KINDS.get(type(self.error), "inference")


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
        self,
        original: NetworkOutput,
        clipped: NetworkOutput | InferenceError,
        not_finite: BoolArray | None,
        mirrored: OfMirrored | None = None,
    ) -> tuple[Decision, Outputs]:
        """Judge a batch.

        Args:
            original: the original network's output.
            clipped: the clipped network's output, or an error that explains why there is no output.
            not_finite: (N,) bool, True for inputs that contain NaN or infinity; None if all inputs are finite.
            mirrored: computes the clipped network's logits of mirror images; None to look at flagged inputs only once.

        Returns:
            The decision, and the model's own outputs with the policy applied.

        Raises:
            InferenceError: some rows cannot be judged or answered, and the policy is to raise an error.
        """
        start = perf_counter()
        failures = find_failures(original, clipped, not_finite)
        self._handle(failures)
        judged = ~np.any([failure.rows for failure in failures], axis=0) if failures else None
        look = None if isinstance(clipped, InferenceError) else SecondLook(clipped.logits, mirrored)
        decision = self._decide(original, clipped, judged, look)
        decision, outputs = self._outputs(original, clipped, decision, look)
        if self._test is not None:
            self._metrics.took("test", perf_counter() - start)
        self._metrics.count(decision)
        return decision, outputs

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

    def _decide(
        self,
        original: NetworkOutput,
        clipped: NetworkOutput | InferenceError,
        judged: BoolArray | None,
        look: SecondLook | None,
    ) -> Decision:
        """Return the decision. `judged` (N,) is a mask of the rows that can be judged; None means all rows."""
        if isinstance(clipped, InferenceError) or look is None:
            return untested(original.logits, self._policy)
        try:
            read = Readings(original.logits, clipped.logits, original.activations)
            if judged is None:
                return self._decide_rows(read, look)
            within = look.within(np.flatnonzero(judged))
            return decide_rows(read, judged, lambda rows: self._decide_rows(rows, within), self._policy)
        except Exception as error:
            rows = np.ones(len(original.logits), np.bool_) if judged is None else judged
            self._handle([Failure(inference_error("the test", error), rows)])
            return untested(original.logits, self._policy)

    def _decide_rows(self, read: Readings, look_again: Callable[[IntArray], Logits]) -> Decision:
        if self._test is None:
            return corrected_model(read.original, read.clipped, self._policy)
        return decide(read, self._test, self._policy, look_again)

    def _outputs(
        self,
        original: NetworkOutput,
        clipped: NetworkOutput | InferenceError,
        decision: Decision,
        look: SecondLook | None,
    ) -> tuple[Decision, Outputs]:
        """Return the decision, and the outputs to which it was applied. Failed corrections are undone."""
        outputs = original.outputs
        if self._policy.mode == "shadow":
            return decision, outputs
        if isinstance(clipped, InferenceError) or look is None:
            return decision, guarded_outputs(outputs, None, decision, self._spec, self._head)
        if self._test is None:
            outputs = with_rows_of(clipped.outputs, outputs, decision.reasons == Reason.UNTESTED)
        try:
            return decision, guarded_outputs(outputs, look.logits, decision, self._spec, self._head)
        except Exception as error:
            self._handle([Failure(inference_error("the output head", error), decision.corrected)], tested=True)
            decision = uncorrected(decision, self._policy)
            return decision, guarded_outputs(outputs, None, decision, self._spec, self._head)


def find_failures(
    original: NetworkOutput, clipped: NetworkOutput | InferenceError, not_finite: BoolArray | None
) -> list[Failure]:
    """Find every row that cannot be judged, including rows in which a logit is NaN or infinite.

    Args:
        original: the original network's output.
        clipped: the clipped network's output, or an error that explains why there is no output.
        not_finite: (N,) bool, True for inputs that contain NaN or infinity; None if all inputs are finite.

    Returns:
        The failures; each row belongs to at most one of them.
    """
    inputs = np.zeros(len(original.logits), np.bool_) if not_finite is None else not_finite
    if isinstance(clipped, InferenceError):
        found = [Failure(clipped, ~inputs)]
    elif not_finite is None and all(map(_all_finite, (original.logits, clipped.logits, original.activations))):
        return []  # the usual case
    else:
        found = _logit_failures(original, clipped, inputs)
    if inputs.any():
        found.append(Failure(InputError(f"inputs: {rows_are(inputs)} NaN or infinite values"), inputs))
    return found


def _all_finite(values: Logits | None) -> bool:
    return values is None or bool(np.isfinite(values).all())


def _logit_failures(original: NetworkOutput, clipped: NetworkOutput, inputs: BoolArray) -> list[Failure]:
    of = {"original": rows_not_finite(original.logits), "clipped": rows_not_finite(clipped.logits)}
    if original.activations is not None:
        of["original"] |= rows_not_finite(original.activations)
    bad = (of["original"] | of["clipped"]) & ~inputs
    names = " and the ".join(name for name, rows in of.items() if (rows & bad).any())
    message = f"logits of the {names} network: {rows_are(bad)} NaN or infinite values"
    kind = LogitsError if of["original"][bad].all() else InferenceError
    return [Failure(kind(message), bad)] if bad.any() else []


def inference_error(what: str, error: Exception) -> InferenceError:
    """Wrap an exception in an InferenceError, unless it already is an InferenceError.

    Args:
        what: what failed; the message begins with these words.
        error: the exception.

    Returns:
        The InferenceError. If it wraps the exception, its `__cause__` is the exception.

    Example:
        >>> inference_error("the test", ValueError("no"))
        InferenceError('the test failed: ValueError: no')
    """
    if isinstance(error, InferenceError):
        return error
    failure = InferenceError(f"{what} failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
