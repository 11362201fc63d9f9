"""A scikit-learn-like classifier with a guard in front."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.errors import InferenceError, OptionError, PredictorMismatchError
from mmguard.guard.guard import Batch, Guard
from mmguard.guard.wrapping.answers import Answers, Array, checked, of_logits_alone, probed, view_answers
from mmguard.guard.wrapping.face import Face
from mmguard.guard.wrapping.original import OnDecision, WrappedOriginal, probes_of, refuse_another_model
from mmguard.guard.wrapping.tensors import as_batch
from mmguard.guard.wrapping.views import SOFTMAX, find_view
from mmguard.types import ABSTAIN, Decision

SCORES = ("predict_log_proba", "decision_function")
"""Guarded too, of a classifier that has them."""

DRAWN = 64
"""Inputs on which a classifier's labels are compared with its probabilities."""


class GuardedClassifier(Face):
    """A fitted scikit-learn-like classifier with a guard in front; it is no estimator itself.

    `predict_proba` and `predict` are guarded, and `predict_log_proba` and `decision_function` where the classifier has
    them. Each takes what the classifier takes, a table or an array (N, ...). A label is that of the greatest
    probability, by `classes_`; where the policy gives none, it is -1 of integers, NaN of floats, and empty of text.
    """

    handed_through = frozenset({"classes_", "n_classes_", "n_features_in_", "feature_names_in_", "n_outputs_"})

    def __init__(
        self, classifier: Any, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]
    ) -> None:
        names = bundle.manifest.classes
        self._dtype = bundle.manifest.input.dtype
        self._labels = np.asarray(getattr(classifier, "classes_", np.arange(len(names))))
        ways = ("predict_proba", *(way for way in SCORES if hasattr(classifier, way)))
        found = {way: _probed(bundle, classifier, way) for way in ways}
        super().__init__(classifier, Guard(of_logits_alone(bundle), **options))
        self._answers = _guarded_ways(bundle, WrappedOriginal(self.guard, on_decision), found)
        self._refuse_other_labels(bundle)
        self._refuse_an_ambiguous_label()

    def predict_proba(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Probabilities (N, K) with the policy applied."""
        return self._ask("predict_proba", X)[0]

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Labels (N,) with the policy applied.

        Raises:
            InferenceError: an input without an answer, where each value that could say so is a class.
        """
        answer, decision = self._ask("predict_proba", X)
        abstained = decision.labels == ABSTAIN
        # Elsewhere the classifier decides itself, also where two classes are so near that the guard's logits differ.
        labels = np.where(decision.corrected | abstained, decision.labels, answer.argmax(axis=1))
        result = self._labels[labels]
        if abstained.any():
            if (void := self._void()) is None:
                raise InferenceError(
                    f"none of the labels can stand for no answer among the classes {self._labels.tolist()}"
                )
            result[abstained] = void
        return result

    def __getattr__(self, name: str) -> Any:
        if name in SCORES and name in self.__dict__.get("_answers", {}):
            return partial(self._scores, name)
        return super().__getattr__(name)

    def _scores(self, way: str, X: Any) -> Array:  # noqa: N803
        return self._ask(way, X)[0]

    def _ask(self, way: str, given: Any) -> tuple[Array, Decision]:
        x = as_batch(given, self._dtype)
        method = getattr(self._predictor, way)

        def ask(batch: Batch) -> Array:  # what was given may be a table, or more precise than the model
            same = np.array_equal(batch, x, equal_nan=x.dtype.kind == "f")
            return checked(method(given if same else batch), len(batch))

        return self._answers[way](x, ask)

    def _void(self) -> Any:
        """The label of an input without an answer; None where each that could be is a class."""
        kind = self._labels.dtype.kind
        void = {"i": -1, "f": np.nan, "U": ""}.get(kind)
        if kind == "O" and all(isinstance(label, str) for label in self._labels):
            void = ""
        return None if void in self._labels.tolist() else void

    def _refuse_other_labels(self, bundle: Bundle) -> None:
        """Inputs drawn from the box besides: few probes may all be of one class."""
        spec, x = bundle.manifest.input, probes_of(bundle)
        drawn = np.random.default_rng(0).uniform(spec.low, spec.high, (DRAWN, *x.shape[1:])).astype(x.dtype)
        x = np.concatenate([x, drawn])
        best = self._labels[_asked(self._predictor, "predict_proba", x).argmax(axis=1)]
        if not np.array_equal(best, _asked(self._predictor, "predict", x)):
            raise PredictorMismatchError(
                "predict must answer the class of the greatest probability, by classes_, and it does not (has it a "
                "threshold of its own?); wrap `classifier.predict_proba`, and decide by its answer"
            )

    def _refuse_an_ambiguous_label(self) -> None:
        policy = self.guard.policy
        if (policy.abstains or policy.when_untested == "closed") and self._void() is None:
            raise OptionError(
                f"the policy may give an input no label, and the classes {self._labels.tolist()} leave no label to say "
                "so; wrap `classifier.predict_proba`, whose rows are NaN then, or choose another policy"
            )


def _guarded_ways(bundle: Bundle, wrapped: WrappedOriginal, found: dict[str, Array]) -> dict[str, Answers]:
    """How to guard each method whose answers are a view of the logits.

    Raises:
        PredictorMismatchError: `predict_proba` is not the softmax of the bundle's logits.
    """
    logits = bundle.probes().original.astype(np.float64)
    refuse_another_model(bundle, {"predict_proba": found["predict_proba"]}, {"predict_proba": SOFTMAX.of(logits)})
    views = {way: find_view(answer, logits) for way, answer in found.items()}
    return {way: view_answers(bundle, wrapped, view, found[way]) for way, view in views.items() if view is not None}


def _probed(bundle: Bundle, classifier: Any, way: str) -> Array:
    answer: Array = probed(bundle, partial(_asked, classifier, way))
    return answer


def _asked(classifier: Any, way: str, x: Batch) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that x comes without the names of a table's columns
        return checked(getattr(classifier, way)(x), len(x))
