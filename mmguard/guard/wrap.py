"""Guard a predictor that exists already: same call, same return type."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mmguard.bundle import Bundle
from mmguard.errors import InputError, PredictorMismatchError
from mmguard.guard.guard import Batch, Guard, GuardedBatch
from mmguard.guard.sessions import NetworkOutput, run
from mmguard.types import Decision

PROBE_TOLERANCE = 1e-3
"""Largest difference from the bundle's probes, relative to the largest value: kernels and providers stay well below."""

Predictor = Callable[[Batch], npt.NDArray[Any]]
Outputs = dict[str, Any]
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

    A corrected row of what it returns carries the clipped network's values with the original's class put last, or NaN
    where the policy abstains, so a caller that takes the arg max gets the corrected label.

    Args:
        predictor: an ONNX Runtime session, or a callable that takes a batch (N, ...) and returns an array (N, ...), the
            model's one output.
        bundle: the bundle that was calibrated from this predictor's model.
        on_decision: called with the `Decision` of every batch.
        options: `Guard`'s own: providers, policy, registry, threads.

    Returns:
        An object of the same call: `run(output_names, feeds)` for a session, `predictor(x)` for a callable.

    Raises:
        PredictorMismatchError: its outputs on the bundle's probes are not those of the bundle's model, or the model has
            several outputs, which a callable's one array cannot be.
        BundleError, ProviderError: as `Guard` raises them.
    """
    guard = Guard(bundle, **options)
    if isinstance(predictor, ort.InferenceSession):
        return GuardedSession(predictor, guard, on_decision)
    return GuardedPredictor(predictor, guard, on_decision)


class _Guarded:
    """A guard whose original network is the user's predictor."""

    def __init__(self, predict: Callable[[Batch], Outputs], guard: Guard, on_decision: OnDecision | None) -> None:
        self._predict, self._guard, self._on_decision = predict, guard, on_decision
        self._spec = guard.bundle.manifest.output
        self._refuse_another_model()

    def infer(self, x: Batch) -> GuardedBatch:
        """Judge a batch that the predictor answers."""
        result = self._guard.infer(x, self._as_network)
        if self._on_decision is not None:
            self._on_decision(result.decision)
        return result

    def _as_network(self, x: Batch) -> NetworkOutput:
        """The predictor as the original network. Probabilities underflow, so then the bundle's logits are used."""
        outputs = self._predict(x)
        own = outputs.get(self._spec.logits)
        logits = self._guard.networks.original(x).logits if own is None else own
        return NetworkOutput(outputs, logits)

    def _refuse_another_model(self) -> None:
        x = self._guard.bundle.probes().x.astype(self._guard.bundle.manifest.input.dtype)
        expected, found = self._guard.networks.original(x).outputs, self._predict(x)
        for name, output in found.items():
            got, wanted = _as_array(output), _as_array(expected[name])
            if got.shape != wanted.shape:
                raise PredictorMismatchError(
                    f"the predictor must return {name!r} of shape {wanted.shape}, got {got.shape}"
                )
            if (difference := _difference(got, wanted)) > PROBE_TOLERANCE:
                raise PredictorMismatchError(
                    f"the predictor is not the model of {self._guard.bundle.path}: its outputs on the bundle's probes "
                    f"differ by {difference:.2g} relative; calibrate a bundle from the model that it runs "
                    "(of PyTorch, in evaluation mode)"
                )


class GuardedPredictor:
    """A callable with a guard in front: takes and returns what the predictor takes and returns."""

    def __init__(self, predictor: Predictor, guard: Guard, on_decision: OnDecision | None = None) -> None:
        self.guard = guard
        self._predictor = predictor
        names = guard.bundle.manifest.output.names
        if len(names) > 1:
            raise PredictorMismatchError(
                f"the model of {guard.bundle.path} has the outputs {', '.join(names)}, and a callable returns one "
                "array; wrap an onnxruntime.InferenceSession of it"
            )
        (self._name,) = names
        self._guarded = _Guarded(self._predict, guard, on_decision)

    def __call__(self, x: Batch) -> npt.NDArray[Any]:
        """Predict a batch (N, ...); returns the model's output (N, ...) with the guard's policy applied."""
        result: npt.NDArray[Any] = self._guarded.infer(x).outputs[self._name]
        return result

    def _predict(self, x: Batch) -> Outputs:
        output = self._predictor(x)
        if not isinstance(output, np.ndarray) or output.shape[:1] != (len(x),):
            got = output.shape if isinstance(output, np.ndarray) else type(output).__name__
            raise PredictorMismatchError(f"the predictor must return a NumPy array of shape ({len(x)}, ...), got {got}")
        return {self._name: output}


class GuardedSession:
    """An `onnxruntime.InferenceSession` with a guard in front. What is not `run` is the session's own."""

    def __init__(self, session: ort.InferenceSession, guard: Guard, on_decision: OnDecision | None = None) -> None:
        self._session = session
        self._spec = guard.bundle.manifest
        self.guard = guard
        self._guarded = _Guarded(self._run_session, guard, on_decision)

    def run(
        self, output_names: Sequence[str] | None, input_feed: dict[str, Batch], run_options: object = None
    ) -> list[Any]:
        """As `InferenceSession.run`: the outputs asked for, with the guard's policy applied.

        Raises:
            InputError: a feed or an output name that the model does not have, or an input it does not take.
        """
        known = self._spec.output.names
        if set(input_feed) != {self._spec.input.name}:
            raise InputError(f"expected the one input {self._spec.input.name!r}, got {sorted(input_feed)}")
        names = list(output_names or known)
        if not set(names) <= set(known):
            raise InputError(f"the model's outputs are {', '.join(map(repr, known))}, got {names}")
        outputs = self._guarded.infer(input_feed[self._spec.input.name]).outputs
        return [outputs[name] for name in names]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def _run_session(self, x: Batch) -> Outputs:
        names = list(self._spec.output.names)
        return dict(zip(names, run(self._session, names, x), strict=True))


def _as_array(output: Any) -> npt.NDArray[Any]:
    """An output as an array; maps by their values."""
    return np.array([list(row.values()) for row in output]) if isinstance(output, list) else np.asarray(output)


def _difference(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Largest difference over the largest value (at least 1); of what are no numbers, the share that differs."""
    if wanted.dtype.kind not in "fiub":
        return float((got != wanted).mean())
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    return float(np.nan_to_num(np.abs(a - b).max() / max(1.0, np.abs(b).max()), nan=np.inf))
