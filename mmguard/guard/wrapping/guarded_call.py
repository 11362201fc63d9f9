"""Guards a call of a predictor that returns one array."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.manifest import OutputSpec
from mmguard.errors import PredictorMismatchError
from mmguard.guard.guard import Batch, Guard, GuardedBatch
from mmguard.guard.wrapping.logit_recovery import LogitRecovery, recovery_from_outputs, recovery_from_transform
from mmguard.guard.wrapping.logit_transforms import LogitTransform, identify_transform
from mmguard.guard.wrapping.predictor_guard import (
    OnDecision,
    Outputs,
    PredictorGuard,
    check_same_model,
    probe_inputs,
)
from mmguard.types import ABSTAIN, Decision

Array = npt.NDArray[Any]
PredictArray = Callable[[Batch], Array]
"""Takes a batch (N, ...) and returns the predictor's own output (N, ...)."""

TRANSFORMED = "mmguard_answer"
"""Name under which the guard returns an array computed from the logits, in addition to the logits."""


@dataclass(frozen=True)
class GuardedCall:
    """A guarded call that returns one array: an output of the bundle's model, or a transform of the model's logits.

    Attributes:
        predictor_guard: the guard, with the predictor as its original network.
        name: name of the array among the outputs that pass through the guard.
        transform: computes the array from the logits; None if the array is an output of the bundle's model.
        recovery: recovers the logits from the array; None if the array contains the logits, or if the
            logits cannot be recovered from the array.
    """

    predictor_guard: PredictorGuard
    name: str
    transform: LogitTransform | None
    recovery: LogitRecovery | None

    def __call__(self, x: Batch, predict: PredictArray) -> tuple[Array, Decision]:
        """Predict and judge a batch.

        Args:
            x: inputs (N, ...) of the model's dtype.
            predict: calls the predictor.

        Returns:
            The predictor's output (N, ...) with the policy applied, and the decision.
        """
        own: Array = np.empty(0)

        def predict_outputs(given: Batch) -> Outputs:
            nonlocal own
            own = check_array(predict(given), len(given))
            return {self.name: own}

        result = self.predictor_guard.infer(x, predict_outputs, self.recovery)
        is_output = self.name in self.predictor_guard.output.names
        answer: Array = result.outputs[self.name] if is_output else self._with_policy(result)
        return answer.reshape(own.shape).astype(own.dtype, copy=False), result.decision

    def _with_policy(self, result: GuardedBatch) -> Array:
        assert self.transform is not None, "an array that is not an output of the model must be a transform"
        logits = result.outputs[self.predictor_guard.output.logits].astype(np.float64)
        decision = result.decision
        if self.name not in result.outputs:  # the bundle has no test, so the clipped network answered
            return self.transform.apply(logits)
        changed = decision.corrected | (decision.labels == ABSTAIN)
        answer: Array = result.outputs[self.name].copy()
        answer[changed] = self.transform.apply(logits[changed]).reshape(answer[changed].shape)
        return answer


def check_array(output: Any, n: int) -> Array:
    """Check that a predictor returned one array with one row per input.

    Args:
        output: what the predictor returned.
        n: number of inputs.

    Returns:
        The output, unchanged.

    Raises:
        PredictorMismatchError: The output is not a NumPy array of shape (n, ...).
    """
    if not isinstance(output, np.ndarray) or output.shape[:1] != (n,):
        got = output.shape if isinstance(output, np.ndarray) else type(output).__name__
        raise PredictorMismatchError(f"the predictor must return a NumPy array of shape ({n}, ...), got {got}")
    return output


def with_logits_only(bundle: Bundle) -> Bundle:
    """Return a bundle whose guard sees only the logits, not the model's other outputs.

    Args:
        bundle: the bundle.

    Returns:
        The new bundle, which uses the same files.
    """
    logits = bundle.manifest.output.logits
    return replace(bundle, manifest=replace(bundle.manifest, output=OutputSpec((logits,), logits)))


def guard_transform(
    bundle: Bundle, predictor_guard: PredictorGuard, transform: LogitTransform, found: Array
) -> GuardedCall:
    """Guard a call that returns a transform of the logits.

    Args:
        bundle: the bundle with all of the model's outputs.
        predictor_guard: the guard, opened on the bundle that `with_logits_only` returned.
        transform: computes the result of the call from the logits.
        found: result (n, ...) of the call on the bundle's probes.

    Returns:
        The guarded call.
    """
    if transform.layout is None:
        return GuardedCall(predictor_guard, predictor_guard.output.logits, transform, None)
    recovery = recovery_from_transform(bundle, transform, TRANSFORMED, found)
    return GuardedCall(predictor_guard, TRANSFORMED, transform, recovery)


def guard_call(
    bundle: Bundle, predict: PredictArray, on_decision: OnDecision | None, options: dict[str, Any]
) -> GuardedCall:
    """Guard a predictor that returns one array.

    Args:
        bundle: the guard bundle of the predictor's model.
        predict: calls the predictor.
        on_decision: called with the decision for each batch.
        options: options of `Guard`.

    Returns:
        The guarded call, with a new guard.

    Raises:
        PredictorMismatchError: The predictor fails on the bundle's probes, or its output is not the model's only
            output, the logits, the probabilities or the log-probabilities.
    """
    x = probe_inputs(bundle)
    found = check_array(run_on_probes(bundle, predict), len(x))
    transform = identify_transform(found, bundle.probes().original)
    if transform is not None:
        guard = Guard(with_logits_only(bundle), **options)
        return guard_transform(bundle, PredictorGuard(guard, on_decision), transform, found)
    names = bundle.manifest.output.names
    if len(names) > 1:
        raise PredictorMismatchError(
            f"the model of {bundle.path} has several outputs ({', '.join(names)}), so a predictor that returns one "
            "array must return the logits or the probabilities; to guard all outputs, wrap an "
            "onnxruntime.InferenceSession"
        )
    guard = Guard(bundle, **options)
    outputs = {names[0]: found}
    check_same_model(bundle, outputs, guard.networks.original(x).outputs)
    recovery = recovery_from_outputs(bundle, outputs)
    return GuardedCall(PredictorGuard(guard, on_decision), names[0], None, recovery)


def run_on_probes(bundle: Bundle, predict: Callable[[Batch], Any]) -> Any:
    """Run a predictor on the bundle's probes.

    Args:
        bundle: the guard bundle.
        predict: calls the predictor with a batch (n, ...).

    Returns:
        The predictor's output.

    Raises:
        PredictorMismatchError: The predictor raises an exception.
    """
    x = probe_inputs(bundle)
    try:
        return predict(x)
    except PredictorMismatchError:
        raise
    except Exception as error:
        raise PredictorMismatchError(
            f"the predictor fails on the bundle's probes (dtype {x.dtype}, shape {x.shape}): "
            f"{type(error).__name__}: {error}; pass a callable that takes and returns NumPy arrays, or pass the "
            "session or torch.nn.Module directly"
        ) from error
