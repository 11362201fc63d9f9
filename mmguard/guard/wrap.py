"""Guard a predictor that exists already: same call, same return type."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mmguard.bundle import Bundle
from mmguard.errors import InferenceError, InputError, PredictorMismatchError
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.sessions import ORT_ERRORS, NetworkOutput, check_finite
from mmguard.types import Decision, Tail

PROBE_TOLERANCE = 1e-3
"""Largest difference from the bundle's probes, relative to the largest value: kernels and providers stay well below."""

Predictor = Callable[[Batch], npt.NDArray[np.floating]]
OnDecision = Callable[[Decision], None]


# ONNX Runtime has no types, so a session is Any, which only the second can take.
@overload
def wrap(
    predictor: Predictor, bundle: str | Path | Bundle, *, on_decision: OnDecision | None = None, **options: Any
) -> "GuardedPredictor": ...
@overload
def wrap(
    predictor: ort.InferenceSession,
    bundle: str | Path | Bundle,
    *,
    on_decision: OnDecision | None = None,
    **options: Any,
) -> "GuardedSession": ...
def wrap(
    predictor: ort.InferenceSession | Predictor,
    bundle: str | Path | Bundle,
    *,
    on_decision: OnDecision | None = None,
    **options: Any,
) -> "GuardedSession | GuardedPredictor":
    """Guard a predictor: it answers for the original network, the bundle's clipped network runs beside it.

    A flagged row of what it returns carries the clipped network's values with the original's class put last, or NaN
    where the policy abstains, so a caller that takes the arg max gets the corrected label.

    Args:
        predictor: an ONNX Runtime session, or a callable that takes (N, ...) float32 and returns (N, K), the model's
            own output.
        bundle: the bundle that was calibrated from this predictor's model.
        on_decision: called with the `Decision` of every batch.
        options: `Guard`'s own: providers, policy, registry, threads.

    Returns:
        An object of the same call: `run(output_names, feeds)` for a session, `predictor(x)` for a callable.

    Raises:
        PredictorMismatchError: its outputs on the bundle's probes are not those of the bundle's model.
        BundleError, ProviderError: as `Guard` raises them.
    """
    guard = Guard(bundle, **options)
    if isinstance(predictor, ort.InferenceSession):
        return GuardedSession(predictor, guard, on_decision)
    return GuardedPredictor(predictor, guard, on_decision)


class GuardedPredictor:
    """A callable with a guard in front: takes and returns what the predictor takes and returns."""

    def __init__(self, predictor: Predictor, guard: Guard, on_decision: OnDecision | None = None) -> None:
        self.guard = guard
        self._predictor = predictor
        self._on_decision = on_decision
        self._returns_logits = guard.bundle.manifest.output.tail is Tail.NONE
        self._refuse_another_model()

    def __call__(self, x: Batch) -> npt.NDArray[np.float32]:
        """Predict a batch (N, ...) float32; returns (N, K) with the guard's policy applied."""
        result = self.guard.infer(x, self._as_network)
        if self._on_decision is not None:
            self._on_decision(result.decision)
        return result.output

    def _as_network(self, x: Batch) -> NetworkOutput:
        """The predictor as the original network. Probabilities underflow, so then the bundle's logits are used."""
        output = self._predict(x)
        logits = output if self._returns_logits else self.guard.networks.original(x).logits
        return NetworkOutput(output, check_finite(logits))

    def _predict(self, x: Batch) -> npt.NDArray[np.float32]:
        output = self._predictor(x)
        expected = (len(x), len(self.guard.bundle.manifest.classes))
        if not isinstance(output, np.ndarray) or output.shape != expected:
            got = output.shape if isinstance(output, np.ndarray) else type(output).__name__
            raise PredictorMismatchError(f"the predictor must return a NumPy array of shape {expected}, got {got}")
        return output

    def _refuse_another_model(self) -> None:
        probes = self.guard.bundle.probes()
        expected = self.guard.networks.original(probes.x).output
        difference = float(np.abs(self._predict(probes.x) - expected).max() / max(1.0, np.abs(expected).max()))
        if not difference <= PROBE_TOLERANCE:
            raise PredictorMismatchError(
                f"the predictor is not the model of {self.guard.bundle.path}: its outputs on the bundle's probes "
                f"differ by {difference:.2g} relative; calibrate a bundle from the model that it runs"
            )


class GuardedSession:
    """An `onnxruntime.InferenceSession` with a guard in front. What is not `run` is the session's own."""

    def __init__(self, session: ort.InferenceSession, guard: Guard, on_decision: OnDecision | None = None) -> None:
        self._session = session
        self._spec = guard.bundle.manifest
        self._predictor = GuardedPredictor(self._run_session, guard, on_decision)
        self.guard = guard

    def run(
        self, output_names: Sequence[str] | None, input_feed: dict[str, Batch], run_options: object = None
    ) -> list[npt.NDArray[np.float32]]:
        """As `InferenceSession.run`: one (N, K) array, with the guard's policy applied.

        Raises:
            InputError: a feed or an output name that the model does not have, or an input it does not take.
        """
        if set(input_feed) != {self._spec.input.name}:
            raise InputError(f"expected the one input {self._spec.input.name!r}, got {sorted(input_feed)}")
        names = list(output_names or [self._spec.output.name])
        if set(names) != {self._spec.output.name}:
            raise InputError(f"expected the one output {self._spec.output.name!r}, got {names}")
        return [self._predictor(input_feed[self._spec.input.name])] * len(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def _run_session(self, x: Batch) -> npt.NDArray[np.float32]:
        try:
            output: Batch = self._session.run([self._spec.output.name], {self._spec.input.name: x})[0]
        except ORT_ERRORS as error:
            raise InferenceError(f"the wrapped session failed on a batch of shape {x.shape}: {error}") from error
        return output
