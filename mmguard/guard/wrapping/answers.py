"""One array that a predictor answers, guarded: an output of the bundle's model, or a view of its logits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.manifest import OutputSpec
from mmguard.errors import PredictorMismatchError
from mmguard.guard.guard import Batch, Guard, GuardedBatch
from mmguard.guard.wrapping import recovery
from mmguard.guard.wrapping.original import OnDecision, Outputs, WrappedOriginal, probes_of, refuse_another_model
from mmguard.guard.wrapping.recovery import LogitRecovery
from mmguard.guard.wrapping.views import View, find_view
from mmguard.types import ABSTAIN, Decision

Array = npt.NDArray[Any]
Ask = Callable[[Batch], Array]
"""From a batch (N, ...) to the predictor's own answer (N, ...)."""

ANSWER = "mmguard_answer"
"""Under this name a view passes through the guard, beside the logits."""


@dataclass(frozen=True)
class Answers:
    """One way to ask a predictor.

    Attributes:
        wrapped: the predictor's guard.
        name: of the answer among the outputs that pass through it.
        view: of the logits; None for an output of the bundle's model.
        recovery: of the logits from the answer, where it is not they.
    """

    wrapped: WrappedOriginal
    name: str
    view: View | None
    recovery: LogitRecovery | None

    def __call__(self, x: Batch, ask: Ask) -> tuple[Array, Decision]:
        """Judge a batch (N, ...); returns the predictor's answer (N, ...) with the policy applied, and the decision."""
        own: Array = np.empty(0)

        def predict(given: Batch) -> Outputs:
            nonlocal own
            own = checked(ask(given), len(given))
            return {self.name: own}

        result = self.wrapped.infer(x, predict, self.recovery)
        is_output = self.name in self.wrapped.output.names
        answer: Array = result.outputs[self.name] if is_output else self._with_policy(result)
        return answer.reshape(own.shape).astype(own.dtype, copy=False), result.decision

    def _with_policy(self, result: GuardedBatch) -> Array:
        assert self.view is not None, "only a view is no output of the model"
        logits, decision = result.outputs[self.wrapped.output.logits].astype(np.float64), result.decision
        if self.name not in result.outputs:  # the corrected model answers, without a test
            return self.view.of(logits)
        changed = decision.corrected | (decision.labels == ABSTAIN)
        answer: Array = result.outputs[self.name].copy()
        answer[changed] = self.view.of(logits[changed]).reshape(answer[changed].shape)
        return answer


def checked(answer: Any, n: int) -> Array:
    """Pass an array (n, ...) on.

    Raises:
        PredictorMismatchError: it is not one.
    """
    if not isinstance(answer, np.ndarray) or answer.shape[:1] != (n,):
        got = answer.shape if isinstance(answer, np.ndarray) else type(answer).__name__
        raise PredictorMismatchError(f"the predictor must return a NumPy array of shape ({n}, ...), got {got}")
    return answer


def of_logits_alone(bundle: Bundle) -> Bundle:
    """The same bundle for a guard that sees the logits and none of the model's outputs."""
    logits = bundle.manifest.output.logits
    return replace(bundle, manifest=replace(bundle.manifest, output=OutputSpec((logits,), logits)))


def view_answers(bundle: Bundle, wrapped: WrappedOriginal, view: View, found: Array) -> Answers:
    """How to guard answers that are a view of the logits.

    Args:
        bundle: with the model's own outputs. wrapped: of `of_logits_alone`. found: (n, ...), for the probes.
    """
    if view.form is None:
        return Answers(wrapped, wrapped.output.logits, view, None)
    return Answers(wrapped, ANSWER, view, recovery.of_view(bundle, view, ANSWER, found))


def answers_of(bundle: Bundle, ask: Ask, on_decision: OnDecision | None, options: dict[str, Any]) -> Answers:
    """How to guard a predictor that answers one array.

    Raises:
        PredictorMismatchError: it fails on the bundle's probes, or gives neither the model's one output nor logits,
            probabilities or their logarithms.
    """
    x = probes_of(bundle)
    found = checked(probed(bundle, ask), len(x))
    view = find_view(found, bundle.probes().original)
    if view is not None:
        guard = Guard(of_logits_alone(bundle), **options)
        return view_answers(bundle, WrappedOriginal(guard, on_decision), view, found)
    names = bundle.manifest.output.names
    if len(names) > 1:
        raise PredictorMismatchError(
            f"the model of {bundle.path} has the outputs {', '.join(names)}, and a predictor that returns one array "
            "must return its logits or probabilities; wrap an onnxruntime.InferenceSession of it"
        )
    guard = Guard(bundle, **options)
    outputs = {names[0]: found}
    refuse_another_model(bundle, outputs, guard.networks.original(x).outputs)
    back = recovery.of_outputs(bundle, outputs)
    return Answers(WrappedOriginal(guard, on_decision), names[0], None, back)


def probed(bundle: Bundle, ask: Callable[[Batch], Any]) -> Any:
    """What a predictor answers to the bundle's probes.

    Raises:
        PredictorMismatchError: it fails.
    """
    x = probes_of(bundle)
    try:
        return ask(x)
    except PredictorMismatchError:
        raise
    except Exception as error:
        raise PredictorMismatchError(
            f"the predictor fails on the bundle's probes, {x.dtype} {x.shape}: {type(error).__name__}: {error}; a "
            "callable is given a NumPy array, a session or a torch.nn.Module is wrapped as it is"
        ) from error
