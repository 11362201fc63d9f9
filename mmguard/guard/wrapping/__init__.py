"""Guard a predictor that exists already: same call, same return type."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy.typing as npt
import onnxruntime as ort

from mmguard.bundle.bundle import Bundle
from mmguard.errors import OptionError
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.wrapping.callables import GuardedPredictor
from mmguard.guard.wrapping.estimators import GuardedClassifier
from mmguard.guard.wrapping.face import Face
from mmguard.guard.wrapping.keras_models import GuardedModel
from mmguard.guard.wrapping.modules import GuardedModule
from mmguard.guard.wrapping.original import OnDecision
from mmguard.guard.wrapping.session import GuardedSession
from mmguard.guard.wrapping.tensors import torch

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "GuardedClassifier",
    "GuardedModel",
    "GuardedModule",
    "GuardedPredictor",
    "GuardedSession",
    "wrap",
]

Predictor = Callable[[Batch], npt.NDArray[Any]]


class Classifier(Protocol):
    """As of scikit-learn."""

    def predict_proba(self, X: Any, /) -> Any: ...  # noqa: N803
    def predict(self, X: Any, /) -> Any: ...  # noqa: N803


class Model(Protocol):
    """As of Keras."""

    def predict(self, x: Any, /) -> Any: ...
    def __call__(self, x: Any, /) -> Any: ...


@overload
def wrap(
    predictor: "nn.Module", bundle: str | Path | Bundle, *, on_decision: OnDecision | None = None, **options: Any
) -> GuardedModule: ...
@overload
def wrap(
    predictor: Classifier, bundle: str | Path | Bundle, *, on_decision: OnDecision | None = None, **options: Any
) -> GuardedClassifier: ...
@overload
def wrap(
    predictor: Model, bundle: str | Path | Bundle, *, on_decision: OnDecision | None = None, **options: Any
) -> GuardedModel: ...
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
    | `torch.nn.Module` in evaluation mode | a call with a tensor |
    | a scikit-learn-like classifier | `predict_proba`, `predict`, `predict_log_proba`, `decision_function` |
    | a Keras-like model | `predict`, `predict_on_batch`, a call |
    | a callable | a call with an array (N, ...), which returns an array (N, ...) |

    A session answers all outputs of the bundle's model. Any other predictor answers one array: the model's one output,
    or its logits, their probabilities or the logarithms of these, whichever of them the model itself gives; of two
    classes also the probability of the second alone, or that before its sigmoid.

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
        PredictorMismatchError: its answers on the bundle's probes are not those of the bundle's model, or it is in
            training mode.
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
    if _is_module(predictor):
        return GuardedModule
    if _has(predictor, "predict_proba") and _has(predictor, "predict"):
        return GuardedClassifier
    if _has(predictor, "predict") and callable(predictor):
        return GuardedModel
    return GuardedPredictor


def _is_module(predictor: object) -> bool:
    """Whether it is a PyTorch module, and not one because Keras runs on PyTorch."""
    return torch() is not None and isinstance(predictor, torch().nn.Module) and not _has(predictor, "predict_on_batch")


def _has(predictor: object, method: str) -> bool:
    return callable(getattr(predictor, method, None))


def _advice(predictor: object) -> str | None:
    """What to pass in place of what is no predictor."""
    if isinstance(predictor, (str, bytes, PathLike)):
        return "pass onnxruntime.InferenceSession(path) for an ONNX file, and the bundle second"
    if isinstance(predictor, (Guard, Face)):
        return "it is guarded already"
    if isinstance(predictor, Bundle):
        return "pass the predictor first, then the bundle; if you have no predictor, use mmguard.Guard(bundle)"
    if isinstance(predictor, type):
        return "pass an object of that class"
    if _has(predictor, "SerializeToString"):
        return "pass onnxruntime.InferenceSession(model.SerializeToString())"
    if _has(predictor, "module") and not callable(predictor):
        return "for an exported program, pass its module()"
    if _has(predictor, "predict") and not callable(predictor) and not _has(predictor, "predict_proba"):
        return "it has predict without predict_proba, and labels alone cannot be guarded"
    if not (callable(predictor) or _has(predictor, "predict_proba")):
        return (
            "pass an onnxruntime.InferenceSession, a torch.nn.Module, a classifier with predict_proba, a Keras model "
            "or a callable of NumPy arrays"
        )
    return None
