"""Classifiers as of scikit-learn: real ones, guarded in each of their methods."""

import copy
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmguard.errors import CopyError, OptionError, PredictorMismatchError
from mmguard.guard import Guard, Policy, wrap
from mmguard.types import Decision
from tests.bundles import Array
from tests.guard.wrapping.endings import check_closes, rows_of_the_original, write_bundle

OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}
FEATURES = 6


def clouds(n: int, classes: int, seed: int = 0) -> tuple[Array, npt.NDArray[np.int64]]:
    """Inputs (n, 6) around one corner a class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(0, 0.6, (n, FEATURES)) + np.eye(classes, FEATURES)[y]
    return x.astype(np.float32), y


def far_out(n: int, seed: int = 5) -> Array:
    """Inputs on which the hidden units go far above their bounds."""
    x, _ = clouds(n, 2, seed)
    x[:, FEATURES - 1] += 60
    return x


def fitted(classes: int, names: Any = None, **options: Any) -> MLPClassifier:
    x, y = clouds(400, classes)
    labels = y if names is None else np.asarray(names)[y]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier((8,), max_iter=60, random_state=0, **options).fit(x, labels)


def model_of(classifier: MLPClassifier) -> onnx.ModelProto:
    """The classifier as ONNX, as converters write it: with the labels' numbers and the probabilities."""
    (w, v), (b, c) = classifier.coefs_, classifier.intercepts_
    constants = {"w": w, "b": b, "v": v, "c": c, "unit": np.ones((1, 1))}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "v", "c"], ["scores"]),
    ]
    if len(classifier.classes_) == 2:
        nodes += [
            helper.make_node("Sigmoid", ["scores"], ["p"]),
            helper.make_node("Sub", ["unit", "p"], ["q"]),
            helper.make_node("Concat", ["q", "p"], ["probabilities"], axis=1),
        ]
    else:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
        del constants["unit"]
    nodes.append(helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
    classes = len(classifier.classes_)
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bundle_of(out: Path, classifier: MLPClassifier) -> Path:
    x, _ = clouds(300, len(classifier.classes_), seed=1)
    hidden = np.maximum(x @ classifier.coefs_[0] + classifier.intercepts_[0], 0)
    bounds = {"hidden": np.quantile(hidden, 0.98, axis=0).astype(np.float32)}
    probes = np.random.default_rng(2).normal(0, 1, (4, FEATURES)).astype(np.float32)
    return write_bundle(out, model_of(classifier), bounds, x, probes)


@dataclass(frozen=True)
class Case:
    """A classifier, its bundle, inputs of which some are flagged, and what the guard's own networks say of them."""

    classifier: MLPClassifier
    bundle: Path
    x: Array

    def expected(self, **policy: Any) -> tuple[Decision, Array]:
        with Guard(self.bundle, policy=Policy(**policy), **OPTIONS) as guard:
            result = guard.infer(self.x)
            return result.decision, result.outputs["probabilities"]


def case_of(folder: Path, classes: int, names: Any = None) -> Case:
    classifier = fitted(classes, names)
    x = np.concatenate([clouds(24, classes, seed=3)[0], far_out(12)])
    return Case(classifier, bundle_of(folder / "b", classifier), x)


@pytest.mark.parametrize("policy", [{}, {"on_flag": "abstain"}, {"mode": "shadow"}], ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_and_labels_are_those_of_the_guard(tmp_path: Path, classes: int, policy: dict[str, Any]) -> None:
    names = ["ant", "bee", "cow"][:classes]
    case, seen = case_of(tmp_path, classes, names), list[Decision]()
    decision, probabilities = case.expected(**policy)
    safe = wrap(case.classifier, case.bundle, policy=Policy(**policy), on_decision=seen.append, **OPTIONS)
    answer = safe.predict_proba(case.x)
    np.testing.assert_allclose(answer, probabilities, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(seen[0].flagged, decision.flagged)
    assert 0 < decision.flagged.sum() < len(case.x)
    kept = ~decision.flagged
    np.testing.assert_array_equal(answer[kept], case.classifier.predict_proba(case.x)[kept])
    labels = safe.predict(case.x)
    np.testing.assert_array_equal(labels, ["" if label < 0 else names[label] for label in decision.labels])
    np.testing.assert_array_equal(labels[kept], case.classifier.predict(case.x)[kept])
    log = safe.predict_log_proba(case.x)
    np.testing.assert_allclose(log[kept], case.classifier.predict_log_proba(case.x)[kept])
    np.testing.assert_allclose(np.exp(log), answer, rtol=1e-5, atol=1e-9)
    assert len(seen) == 3


def test_of_classes_that_are_all_but_equal_the_classifier_itself_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(tmp_path, 3)
    safe = wrap(case.classifier, case.bundle, policy=Policy(mode="shadow"), **OPTIONS)
    x = case.x[case.expected()[0].original_labels == 0][:5]
    tied = np.tile([0.4, 0.4 + 1e-6, 0.2 - 1e-6], (len(x), 1))
    assert len(x)
    monkeypatch.setattr(case.classifier, "predict_proba", lambda _: tied)
    assert safe.predict(x).tolist() == [1] * len(x)


def test_the_classifier_runs_once_and_the_bundle_s_original_only_where_it_must(tmp_path: Path) -> None:
    case, runs = case_of(tmp_path, 3), list[int]()
    safe = wrap(case.classifier, case.bundle, **OPTIONS)
    own, rows = case.classifier.predict_proba, rows_of_the_original(safe)

    def counted(x: Array) -> Any:
        runs.append(len(x))
        return own(x)

    case.classifier.predict_proba = counted
    safe.predict(case.x[:24])
    assert runs == [24]
    assert sum(rows) == 0


def test_what_is_given_reaches_the_classifier_as_it_is(tmp_path: Path) -> None:
    """A list, or numbers of float64: what the classifier makes of them is not lost by the model's float32."""
    case = case_of(tmp_path, 3)
    safe = wrap(case.classifier, case.bundle, policy=Policy(mode="shadow"), **OPTIONS)
    precise = case.x + np.random.default_rng(0).normal(0, 1e-6, case.x.shape)
    for given in (precise, precise.tolist(), case.x):
        np.testing.assert_array_equal(safe.predict_proba(given), case.classifier.predict_proba(given))


def test_a_pipeline_is_guarded_as_one_model(tmp_path: Path) -> None:
    classifier = fitted(3)
    unscaled = make_pipeline(StandardScaler(with_mean=False, with_std=False).fit(clouds(9, 3)[0]), classifier)
    safe = wrap(unscaled, bundle_of(tmp_path / "b", classifier), **OPTIONS)
    x = clouds(24, 3, seed=3)[0]
    assert safe.predict(x).shape == (24,)
    for name in ("steps", "named_steps", "fit", "score", "transform", "__getitem__", "set_params", "_final_estimator"):
        with pytest.raises(AttributeError, match="might run the model without the guard"):
            getattr(safe, name)
    np.testing.assert_array_equal(safe.classes_, [0, 1, 2])
    assert safe.n_features_in_ == FEATURES


class Scored:
    """A classifier that decides by scores, as linear ones and support vectors do."""

    def __init__(self, inner: MLPClassifier, offset: float = 0) -> None:
        self.inner, self.offset, self.classes_ = inner, offset, inner.classes_

    def decision_function(self, X: Array) -> Any:  # noqa: N803
        p = np.clip(self.inner.predict_proba(X), 1e-300, 1)
        scores = np.log(p[:, 1]) - np.log(p[:, 0])
        return scores + self.offset

    def predict_proba(self, X: Array) -> Any:  # noqa: N803
        return self.inner.predict_proba(X)

    def predict(self, X: Array) -> Any:  # noqa: N803
        return self.inner.predict(X)


def test_scores_are_guarded_where_they_are_the_logits(tmp_path: Path) -> None:
    case = case_of(tmp_path, 2)
    scored, decisions = Scored(case.classifier), list[Decision]()
    safe = wrap(scored, case.bundle, on_decision=decisions.append, **OPTIONS)
    scores, own = safe.decision_function(case.x), scored.decision_function(case.x)
    np.testing.assert_array_equal(scores > 0, decisions[0].labels == 1)
    kept = ~decisions[0].flagged
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(scores[kept], own[kept])
    assert (scores[decisions[0].corrected] != own[decisions[0].corrected]).all()


def test_scores_that_are_not_the_logits_are_refused(tmp_path: Path) -> None:
    case = case_of(tmp_path, 2)
    assert not hasattr(wrap(Scored(case.classifier, offset=1), case.bundle, **OPTIONS), "decision_function")
    assert not hasattr(wrap(case.classifier, case.bundle, **OPTIONS), "decision_function")


def test_another_classifier_is_refused(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "b", fitted(3))
    with pytest.raises(PredictorMismatchError, match="not the model of"):
        wrap(fitted(3, alpha=10.0), bundle, **OPTIONS)
    with pytest.raises(PredictorMismatchError, match=r"'predict_proba' of shape \(4, 3\), got \(4, 2\)"):
        wrap(fitted(2), bundle, **OPTIONS)


def test_a_threshold_of_the_classifier_s_own_is_refused(tmp_path: Path) -> None:
    class Careful(Scored):
        def predict(self, X: Array) -> Any:  # noqa: N803
            return self.classes_[(self.predict_proba(X)[:, 1] > 2).astype(int)]

    case = case_of(tmp_path, 2)
    with pytest.raises(PredictorMismatchError, match="the entry of classes_ with the largest probability"):
        wrap(Careful(case.classifier), case.bundle, **OPTIONS)


@pytest.mark.parametrize("names", [[-1, 1], [False, True]])
def test_labels_that_cannot_say_that_there_is_none_are_refused_where_the_policy_gives_none(
    tmp_path: Path, names: list[Any]
) -> None:
    case = case_of(tmp_path, 2, names)
    for policy in (Policy(on_flag="abstain"), Policy(on_error="closed")):
        with pytest.raises(
            OptionError, match=r"predict has no label for an abstention.*; wrap `classifier\.predict_proba`"
        ):
            wrap(case.classifier, case.bundle, policy=policy, **OPTIONS)
    labels = wrap(case.classifier, case.bundle, **OPTIONS).predict(case.x)
    assert set(labels.tolist()) <= set(names)


def test_an_integer_label_that_is_missing_is_minus_1(tmp_path: Path) -> None:
    case = case_of(tmp_path, 3, [3, 5, 7])
    decision, _ = case.expected(on_flag="abstain")
    labels = wrap(case.classifier, case.bundle, policy=Policy(on_flag="abstain"), **OPTIONS).predict(case.x)
    np.testing.assert_array_equal(labels, np.where(decision.flagged, -1, case.classifier.predict(case.x)))


def test_a_guarded_classifier_is_not_copied(tmp_path: Path) -> None:
    case = case_of(tmp_path, 3)
    safe = wrap(case.classifier, case.bundle, **OPTIONS)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(CopyError, match="GuardedClassifier"):
            copied(safe)


def test_a_guarded_classifier_closes_its_guard(tmp_path: Path) -> None:
    case = case_of(tmp_path, 3)
    safe = wrap(case.classifier, case.bundle, **OPTIONS)
    check_closes(safe, lambda: safe.predict(case.x))
    assert case.classifier.predict(case.x).shape == (len(case.x),)
