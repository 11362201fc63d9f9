"""A guarded classifier with scikit-learn's methods."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.errors import InferenceError, OptionError, PredictorMismatchError
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.wrapping.base import WrappedPredictor
from mmguard.guard.wrapping.guarded_call import (
    Array,
    GuardedCall,
    check_array,
    guard_transform,
    run_on_probes,
    with_logits_only,
)
from mmguard.guard.wrapping.logit_transforms import SOFTMAX, identify_transform
from mmguard.guard.wrapping.predictor_guard import OnDecision, PredictorGuard, check_same_model, probe_inputs
from mmguard.guard.wrapping.tensors import as_batch
from mmguard.types import ABSTAIN, Decision

SCORE_METHODS = ("predict_log_proba", "decision_function")
"""Methods that are guarded if the classifier has them."""

RANDOM_INPUTS = 64
"""Number of random inputs on which a classifier's labels are compared with its probabilities."""


class GuardedClassifier(WrappedPredictor):
    """A guarded classifier with scikit-learn's methods. It is not an estimator itself.

    `predict_proba` and `predict` are guarded. `predict_log_proba` and `decision_function` are guarded too, if the
    classifier has these methods and computes their results from its probabilities. All guarded methods take the same
    inputs as the classifier's own methods: a table or an array (N, ...). The predicted label is the entry of `classes_`
    with the largest probability. The label of an input on which the policy abstains is -1 for integer classes, NaN
    for float classes, and the empty string for string classes.

    Args:
        classifier: the fitted classifier.
        bundle: the guard bundle of the classifier's model.
        on_decision: called with the decision for each batch.
        options: options of `Guard`.
    """

    forwarded = frozenset({"classes_", "n_classes_", "n_features_in_", "feature_names_in_", "n_outputs_"})

    def __init__(
        self, classifier: Any, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]
    ) -> None:
        names = bundle.manifest.classes
        self._dtype = bundle.manifest.input.dtype
        self._labels = np.asarray(getattr(classifier, "classes_", np.arange(len(names))))
        methods = ("predict_proba", *(method for method in SCORE_METHODS if hasattr(classifier, method)))
        found = {method: _run_on_probes(bundle, classifier, method) for method in methods}
        super().__init__(classifier, Guard(with_logits_only(bundle), **options))
        self._calls = _guard_methods(bundle, PredictorGuard(self.guard, on_decision), found)
        self._check_labels(bundle)
        self._check_abstain_label()

    def predict_proba(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Predict probabilities.

        Args:
            X: inputs (N, ...), a table or an array.

        Returns:
            Probabilities (N, K) with the policy applied.
        """
        return self._run("predict_proba", X)[0]

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Predict labels.

        Args:
            X: inputs (N, ...), a table or an array.

        Returns:
            Labels (N,) with the policy applied.

        Raises:
            InferenceError: The policy abstains, but no label can stand for an abstention: the classes include -1 or an
                empty string, or are not signed integers, floats or strings.
        """
        answer, decision = self._run("predict_proba", X)
        abstained = decision.labels == ABSTAIN
        # Other rows keep the classifier's own label, even if recovered logits swap two nearly equal classes.
        labels = np.where(decision.corrected | abstained, decision.labels, answer.argmax(axis=1))
        result = self._labels[labels]
        if abstained.any():
            if (no_label := self._no_label()) is None:
                raise InferenceError(
                    "the policy abstains, but predict has no label for an abstention, because the classes "
                    f"{self._labels.tolist()} include -1 or an empty string, or are not signed integers, floats or "
                    "strings; use predict_proba, which returns NaN for these inputs"
                )
            result[abstained] = no_label
        return result

    def __getattr__(self, name: str) -> Any:
        if name in SCORE_METHODS and name in self.__dict__.get("_calls", {}):
            return partial(self._scores, name)
        return super().__getattr__(name)

    def _scores(self, method: str, X: Any) -> Array:  # noqa: N803
        return self._run(method, X)[0]

    def _run(self, method: str, given: Any) -> tuple[Array, Decision]:
        x = as_batch(given, self._dtype)
        run = getattr(self._predictor, method)

        def predict(batch: Batch) -> Array:  # prefer the caller's own object: it may be a table or have a wider dtype
            same = np.array_equal(batch, x, equal_nan=x.dtype.kind == "f")
            return check_array(run(given if same else batch), len(batch))

        return self._calls[method](x, predict)

    def _no_label(self) -> Any:
        """Return the label for inputs on which the policy abstains.

        Return None if that label is one of the classes, or if the classes are not signed integers, floats or strings.
        """
        kind = self._labels.dtype.kind
        no_label = {"i": -1, "f": np.nan, "U": ""}.get(kind)
        if kind == "O" and all(isinstance(label, str) for label in self._labels):
            no_label = ""
        return None if no_label in self._labels.tolist() else no_label

    def _check_labels(self, bundle: Bundle) -> None:
        """Check that `predict` and `predict_proba` agree on the probes and on random inputs."""
        # All probes may have the same class, so the probes alone are not enough.
        spec, x = bundle.manifest.input, probe_inputs(bundle)
        drawn = np.random.default_rng(0).uniform(spec.low, spec.high, (RANDOM_INPUTS, *x.shape[1:])).astype(x.dtype)
        x = np.concatenate([x, drawn])
        best = self._labels[_call_method(self._predictor, "predict_proba", x).argmax(axis=1)]
        if not np.array_equal(best, _call_method(self._predictor, "predict", x)):
            raise PredictorMismatchError(
                "predict must return the entry of classes_ with the largest probability, but predict returned a "
                "different label (perhaps because predict applies a threshold); wrap "
                "`classifier.predict_proba` instead, and compute the labels from the probabilities"
            )

    def _check_abstain_label(self) -> None:
        policy = self.guard.policy
        if (policy.abstains or policy.when_untested == "closed") and self._no_label() is None:
            raise OptionError(
                "the policy may abstain, but predict has no label for an abstention, because the classes "
                f"{self._labels.tolist()} include -1 or an empty string, or are not signed integers, floats or "
                "strings; wrap `classifier.predict_proba`, which returns NaN for an abstention, or use a different "
                "policy"
            )


def _guard_methods(bundle: Bundle, predictor_guard: PredictorGuard, found: dict[str, Array]) -> dict[str, GuardedCall]:
    """Guard the methods that return transforms of the logits. `predict_proba` must return the softmax of the logits."""
    logits = bundle.probes().original.astype(np.float64)
    check_same_model(bundle, {"predict_proba": found["predict_proba"]}, {"predict_proba": SOFTMAX.apply(logits)})
    transforms = {method: identify_transform(output, logits) for method, output in found.items()}
    return {
        method: guard_transform(bundle, predictor_guard, transform, found[method])
        for method, transform in transforms.items()
        if transform is not None
    }


def _run_on_probes(bundle: Bundle, classifier: Any, method: str) -> Array:
    output: Array = run_on_probes(bundle, partial(_call_method, classifier, method))
    return output


def _call_method(classifier: Any, method: str, x: Batch) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns that an array has no column names
        return check_array(getattr(classifier, method)(x), len(x))
