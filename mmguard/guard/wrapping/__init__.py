"""Guard a predictor that exists already: same call, same return type."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy.typing as npt
import onnxruntime as ort

from mmguard.bundle import Bundle
from mmguard.errors import OptionError
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.wrapping.callables import GuardedPredictor
from mmguard.guard.wrapping.face import Face
from mmguard.guard.wrapping.original import OnDecision
from mmguard.guard.wrapping.session import GuardedSession

__all__ = [
    "GuardedPredictor",
    "GuardedSession",
    "wrap",
]

Predictor = Callable[[Batch], npt.NDArray[Any]]


@overload
def wrap(
    predictor: Predictor, bundle: str | Path | Bundle, *, on_decision: OnDecision | None = None, **options: Any
) -> GuardedPredictor: ...
@overload
def wrap(
    predictor: ort.InferenceSession,
    bundle: str | Path | Bundle,
    *,
    on_decision: OnDecision | None = None,
    **options: Any,
) -> GuardedSession: ...
def wrap(predictor: Any, bundle: str | Path | Bundle, *, on_decision: OnDecision | None = None, **options: Any) -> Face:
    """Guard a predictor: it answers for the original network, the bundle's clipped network runs beside it.

    A corrected row of what it returns carries the clipped network's values with the original's class put last, or NaN
    where the policy abstains, so a caller that takes the arg max gets the corrected label.

    | predictor | guarded |
    |---|---|
    | `onnxruntime.InferenceSession` | `run`, `run_with_ort_values`, `run_async` |
    | a callable | a call with an array (N, ...), which returns an array (N, ...) |

    A session answers all outputs of the bundle's model. Any other predictor answers one array: the model's one output,
    or its logits, their probabilities or the logarithms of these, whichever of them the model itself gives.

    The test needs the logits of the original. The logarithms of probabilities are the logits up to a constant of each
    row, and most tests do without it. So a predictor that answers probabilities runs once, and the bundle's original
    only for rows whose probabilities are too near 0 or 1. It runs for every row where the bundle's test needs that
    constant, and where the answers are in float16, or are labels or top classes alone.

    Args:
        predictor: one of these, of the model that the bundle was calibrated from.
        bundle: the guard bundle, its folder or one that is open.
        on_decision: called with the `Decision` of every batch. What it raises is logged and counted, no more.
        options: `Guard`'s own: providers, policy, registry, threads.

    Returns:
        An object of the same calls. Whatever else it has of the predictor's does not run the model.

    Raises:
        PredictorMismatchError: its answers on the bundle's probes are not those of the bundle's model.
        OptionError: no predictor, or a policy that its labels cannot express.
        BundleError, ProviderError: as `Guard` raises them.
    """
    face = _face(predictor)
    return face(predictor, bundle if isinstance(bundle, Bundle) else Bundle.open(bundle), on_decision, options)


def _face(predictor: Any) -> Callable[[Any, Bundle, OnDecision | None, dict[str, Any]], Face]:
    if isinstance(predictor, ort.InferenceSession):
        return GuardedSession
    if (advice := _advice(predictor)) is not None:
        raise OptionError(f"wrap takes a predictor, got {type(predictor).__name__}; {advice}")
    return GuardedPredictor


def _has(predictor: object, method: str) -> bool:
    return callable(getattr(predictor, method, None))


def _advice(predictor: object) -> str | None:
    """What to pass in place of what is no predictor."""
    if isinstance(predictor, (str, bytes, PathLike)):
        return "pass onnxruntime.InferenceSession(path) for an ONNX file, and the bundle second"
    if isinstance(predictor, (Guard, Face)):
        return "it is guarded already"
    if isinstance(predictor, Bundle):
        return "pass the predictor first, then the bundle; without one of your own, mmguard.Guard(bundle) answers"
    if isinstance(predictor, type):
        return "pass an object of that class"
    if _has(predictor, "SerializeToString"):
        return "pass onnxruntime.InferenceSession(model.SerializeToString())"
    if not callable(predictor):
        return "pass an onnxruntime.InferenceSession or a callable of NumPy arrays"
    return None
