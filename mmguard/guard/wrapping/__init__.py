"""Wraps existing predictors: `wrap` returns a guarded object with the same methods and return types."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy.typing as npt
import onnxruntime as ort

from mmguard.bundle.bundle import Bundle
from mmguard.errors import OptionError
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.wrapping.base import WrappedPredictor
from mmguard.guard.wrapping.callables import GuardedPredictor
from mmguard.guard.wrapping.estimators import GuardedClassifier
from mmguard.guard.wrapping.keras_models import GuardedModel
from mmguard.guard.wrapping.predictor_guard import OnDecision
from mmguard.guard.wrapping.session import GuardedSession
from mmguard.guard.wrapping.tensors import torch
from mmguard.guard.wrapping.torch_modules import GuardedModule

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "GuardedClassifier",
    "GuardedModel",
    "GuardedModule",
    "GuardedPredictor",
    "GuardedSession",
    "WrappedPredictor",
    "wrap",
]

Predictor = Callable[[Batch], npt.NDArray[Any]]


class Classifier(Protocol):
    """A classifier with scikit-learn's methods."""

    def predict_proba(self, X: Any, /) -> Any: ...  # noqa: N803
    def predict(self, X: Any, /) -> Any: ...  # noqa: N803


class Model(Protocol):
    """A model with Keras's methods."""

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
def wrap(
    predictor: Any, bundle: str | Path | Bundle, *, on_decision: OnDecision | None = None, **options: Any
) -> WrappedPredictor:
    """Guard a predictor.

    The predictor replaces the bundle's original network and runs next to the bundle's clipped network.

    Corrected rows of the result contain the clipped network's values, changed so that the class predicted by the
    original network ranks last. The arg max of a corrected row is therefore the corrected label. Rows on which the
    policy abstains contain NaN.

    | predictor | guarded calls |
    |---|---|
    | `onnxruntime.InferenceSession` | `run`, `run_with_ort_values`, `run_async` |
    | `torch.nn.Module` in evaluation mode | calling the module with a tensor |
    | a classifier with scikit-learn's methods | `predict_proba`, `predict`, `predict_log_proba`, `decision_function` |
    | a model with Keras's methods | `predict`, `predict_on_batch`, calling the model |
    | a callable that takes and returns an array (N, ...) | calling the callable |

    A session must have the same outputs as the bundle's model. Any other predictor must return one array: the model's
    only output, or the logits, probabilities or log-probabilities, even if these are not outputs of the model itself.
    If there are two classes, the array may instead contain only the probability of the second class, or only the score
    whose sigmoid is that probability.

    The test needs the logits of the original network. Log-probabilities equal the logits up to a constant per row, and
    most tests do not need that constant. So if a predictor returns probabilities, the bundle's original network needs
    to run only for rows whose probabilities are too close to 0 or 1. The original network runs for every row if the
    bundle's test needs the constant, if the predictor's outputs are float16, or if these outputs contain only labels or
    top classes.

    The returned object owns its guard. Use the object as a context manager, or call `close()` on it:

        with mmguard.wrap(session, "model.mmguard") as guarded:
            logits, = guarded.run(None, {"x": x})

    Args:
        predictor: one of the predictors in the table. The predictor must run the model from which the bundle was
            calibrated.
        bundle: the guard bundle, as the path of its folder or as an open `Bundle`.
        on_decision: called with the `Decision` for each batch. Exceptions raised by the callback are only logged and
            counted.
        options: options of `Guard`: `providers`, `policy`, `registry`, `threads`.

    Returns:
        A guarded object with the same methods. Other attributes of the predictor are forwarded if they are known not
        to run the model.

    Raises:
        PredictorMismatchError: The predictor's outputs on the bundle's probes differ from the outputs of the bundle's
            model, or the predictor is in training mode.
        OptionError: `predictor` is not a supported predictor, or the policy may abstain but a classifier's `predict`
            would have no label to return for an abstention: the classes include -1 or an empty string, or are not
            signed integers, floats or strings.
        BundleError: The bundle cannot be read; see `Guard`.
        ProviderError: An execution provider is not available; see `Guard`.
    """
    wrapper = _wrapper_class(predictor)
    return wrapper(predictor, bundle if isinstance(bundle, Bundle) else Bundle.open(bundle), on_decision, options)


def _wrapper_class(predictor: Any) -> Callable[[Any, Bundle, OnDecision | None, dict[str, Any]], WrappedPredictor]:
    if isinstance(predictor, ort.InferenceSession):
        return GuardedSession
    if (advice := _advice(predictor)) is not None:
        raise OptionError(f"wrap expects a predictor, got {type(predictor).__name__}; {advice}")
    if _is_module(predictor):
        return GuardedModule
    if _has(predictor, "predict_proba") and _has(predictor, "predict"):
        return GuardedClassifier
    if _has(predictor, "predict") and callable(predictor):
        return GuardedModel
    return GuardedPredictor


def _is_module(predictor: object) -> bool:
    """Return whether a predictor is a PyTorch module and not a Keras model on the PyTorch backend."""
    return torch() is not None and isinstance(predictor, torch().nn.Module) and not _has(predictor, "predict_on_batch")


def _has(predictor: object, method: str) -> bool:
    return callable(getattr(predictor, method, None))


def _advice(predictor: object) -> str | None:
    """Return advice on what to pass instead of an object that is not a predictor; None for a predictor."""
    if isinstance(predictor, (str, bytes, PathLike)):
        return "for an ONNX file, pass onnxruntime.InferenceSession(path) as the predictor"
    if isinstance(predictor, (Guard, WrappedPredictor)):
        return "this object is already guarded, so use it directly"
    if isinstance(predictor, Bundle):
        return "pass the predictor first, then the bundle; without a predictor, use mmguard.Guard(bundle)"
    if isinstance(predictor, type):
        return "pass an instance of that class"
    if _has(predictor, "SerializeToString"):
        return "pass onnxruntime.InferenceSession(model.SerializeToString())"
    if _has(predictor, "module") and not callable(predictor):
        return "for an exported program, pass program.module()"
    if _has(predictor, "predict") and not callable(predictor) and not _has(predictor, "predict_proba"):
        return (
            "this object has predict but no predict_proba, and labels alone cannot be guarded; wrap a callable that "
            "returns probabilities or logits"
        )
    if not (callable(predictor) or _has(predictor, "predict_proba")):
        return (
            "pass an onnxruntime.InferenceSession, a torch.nn.Module, a classifier with predict_proba, a Keras model "
            "or a callable that takes and returns NumPy arrays"
        )
    return None
