import copy
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from prometheus_client import CollectorRegistry
from scipy.special import expit, softmax

from mmguard.bundle.bundle import Bundle
from mmguard.errors import CopyError, InferenceError, OptionError, PredictorMismatchError
from mmguard.guard import Guard, Policy, wrap
from mmguard.types import Decision
from tests.bundles import Array, Head, add_trigger, clean_inputs, write_tiny_bundle
from tests.guard.wrapping.endings import ENDINGS, callable_of, check_closes, session_of, write_ended_bundle

MIXED = np.concatenate([clean_inputs(20, seed=3), add_trigger(clean_inputs(12, seed=4))])
OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}


def expected_of(bundle: Path, x: Array, **policy: Any) -> Array:
    with Guard(bundle, policy=Policy(**policy), **OPTIONS) as guard:
        output: Array = guard.infer(x).output
        return output


@pytest.mark.parametrize("head", list(Head))
def test_a_wrapped_callable_answers_as_the_guard_does(tmp_path: Path, head: Head) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", head=head)
    safe = wrap(callable_of(bundle), bundle, **OPTIONS)
    np.testing.assert_allclose(safe(MIXED), expected_of(bundle, MIXED), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("policy", [{}, {"on_flag": "abstain"}], ids=str)
@pytest.mark.parametrize("answered", list(Head))
@pytest.mark.parametrize("bundled", list(Head))
def test_logits_and_probabilities_are_guarded_whichever_the_bundle_s_model_gives(
    tmp_path: Path, bundled: Head, answered: Head, policy: dict[str, Any]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", head=bundled)
    other = write_tiny_bundle(tmp_path / "other", head=answered)
    predict, decisions = callable_of(other), list[Decision]()
    safe = wrap(predict, bundle, policy=Policy(**policy), on_decision=decisions.append, **OPTIONS)
    answer, (decision,) = safe(MIXED), decisions
    np.testing.assert_allclose(answer, expected_of(other, MIXED, **policy), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(answer[~decision.flagged], predict(MIXED)[~decision.flagged])
    assert answer.dtype == np.float32
    assert decision.flagged.any()
    with Guard(bundle, policy=Policy(**policy), **OPTIONS) as guard:
        np.testing.assert_array_equal(decision.labels, guard(MIXED).labels)


def test_shadow_is_the_predictor_bit_for_bit(tiny_bundle: Path) -> None:
    predict = callable_of(tiny_bundle)
    safe = wrap(predict, tiny_bundle, policy=Policy(mode="shadow"), **OPTIONS)
    for n in (1, 5, 32):
        assert safe(MIXED[-n:]).tobytes() == predict(MIXED[-n:]).tobytes()


def test_the_predictor_answers_for_the_original_once_a_batch(tiny_bundle: Path) -> None:
    predict, seen = callable_of(tiny_bundle), list[int]()

    def counted(x: Array) -> Array:
        seen.append(len(x))
        return predict(x)

    safe = wrap(counted, tiny_bundle, **OPTIONS)
    seen.clear()
    safe(MIXED)
    assert seen == [len(MIXED)]


def test_decisions_are_handed_on(tiny_bundle: Path) -> None:
    seen = list[Decision]()
    safe = wrap(callable_of(tiny_bundle), tiny_bundle, on_decision=seen.append, **OPTIONS)
    output = safe(MIXED)
    np.testing.assert_array_equal(output.argmax(axis=1), seen[0].labels)
    assert len(seen) == 1
    assert seen[0].flagged.any()


def test_options_are_the_guard_s(tiny_bundle: Path) -> None:
    registry = CollectorRegistry()
    safe = wrap(callable_of(tiny_bundle), tiny_bundle, registry=registry, policy=Policy(on_flag="abstain"), threads=1)
    assert np.isnan(safe(MIXED)).any()
    assert registry.get_sample_value("mmguard_inputs_total", {"model": "tiny"}) == len(MIXED)
    with pytest.raises(OptionError):
        wrap(callable_of(tiny_bundle), tiny_bundle, policy=Policy(mode="off"), **OPTIONS)  # type: ignore[arg-type]


def test_another_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "b", "other", seed=1)
    for predictor in (session_of(other), callable_of(other)):
        with pytest.raises(PredictorMismatchError, match=r"not the model of .*tiny\.mmguard.* calibrate a bundle"):
            wrap(predictor, tiny_bundle, **OPTIONS)


def test_a_model_that_is_only_near_is_refused(tiny_bundle: Path) -> None:
    predict = callable_of(tiny_bundle)
    wrap(lambda x: predict(x) * np.float32(1.0002), tiny_bundle, **OPTIONS)
    with pytest.raises(PredictorMismatchError, match=r"differ by 0\.005"):
        wrap(lambda x: predict(x) * np.float32(1.005), tiny_bundle, **OPTIONS)


def test_what_a_predictor_raises_is_counted_and_raised(tiny_bundle: Path) -> None:
    registry, predict, broken = CollectorRegistry(), callable_of(tiny_bundle), list[bool]()

    def fragile(x: Array) -> Array:
        if broken:
            raise RuntimeError("out of memory")
        return predict(x)

    safe = wrap(fragile, tiny_bundle, registry=registry, threads=1)
    broken.append(True)
    with pytest.raises(RuntimeError, match="out of memory"):
        safe(MIXED)
    assert registry.get_sample_value("mmguard_errors_total", {"model": "tiny", "kind": "inference"}) == 1


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (lambda x: np.zeros((len(x), 4), np.float32), r"of shape \(4, 3\), got \(4, 4\)"),
        (lambda x: np.zeros(len(x), np.float32), r"got \(4,\)"),
        (lambda x: [[0.0] * 3] * len(x), "got list"),
        (lambda x: np.full((len(x), 3), np.nan, np.float32), "differ by inf"),
    ],
)
def test_a_predictor_of_another_kind_is_refused(tiny_bundle: Path, result: Any, got: str) -> None:
    with pytest.raises(PredictorMismatchError, match=got):
        wrap(result, tiny_bundle, **OPTIONS)


def test_a_predictor_that_gives_nan_is_an_inference_error(tiny_bundle: Path) -> None:
    predict, broken = callable_of(tiny_bundle), list[bool]()

    def fragile(x: Array) -> Array:
        return predict(x) * np.float32(np.nan if broken else 1)

    safe = wrap(fragile, tiny_bundle, **OPTIONS)
    broken.append(True)
    with pytest.raises(InferenceError, match="NaN or infinite"):
        safe(MIXED)


def test_a_predictor_s_own_exception_reaches_its_caller(tiny_bundle: Path) -> None:
    predict, broken = callable_of(tiny_bundle), list[bool]()

    def fragile(x: Array) -> Array:
        if broken:
            raise ConnectionError("the accelerator is gone")
        return predict(x)

    safe = wrap(fragile, tiny_bundle, **OPTIONS)
    broken.append(True)
    with pytest.raises(ConnectionError, match="gone"):
        safe(MIXED)


def test_what_on_decision_raises_costs_no_answer(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()

    def fails(decision: Decision) -> None:
        raise RuntimeError("the queue is full")

    safe = wrap(callable_of(tiny_bundle), tiny_bundle, on_decision=fails, registry=registry, threads=1)
    np.testing.assert_array_equal(safe(MIXED), expected_of(tiny_bundle, MIXED))
    assert "on_decision failed" in caplog.text
    assert "the queue is full" in caplog.text
    assert registry.get_sample_value("mmguard_errors_total", {"model": "tiny", "kind": "on_decision"}) == 1
    assert registry.get_sample_value("mmguard_inputs_total", {"model": "tiny"}) == len(MIXED)


@pytest.mark.parametrize("policy", [{}, {"on_flag": "abstain"}], ids=str)
def test_what_on_decision_writes_to_a_decision_changes_no_answer(tmp_path: Path, policy: dict[str, Any]) -> None:
    def writes(decision: Decision) -> None:
        for field in fields(Decision):
            getattr(decision, field.name)[:] = getattr(decision, field.name)[:1]

    bundle = write_tiny_bundle(tmp_path / "b")
    predict, options = callable_of(bundle), OPTIONS | {"policy": Policy(**policy)}
    for predictor in (predict, lambda x: softmax(predict(x).astype(np.float64), axis=1)):
        expected = wrap(predictor, bundle, **options)(MIXED)
        np.testing.assert_array_equal(wrap(predictor, bundle, on_decision=writes, **options)(MIXED), expected)


@pytest.mark.parametrize("head", list(Head))
def test_an_answer_of_nan_is_an_inference_error_whatever_the_model_gives(tmp_path: Path, head: Head) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", head=head)
    predict, broken = callable_of(bundle), list[bool]()

    def fragile(x: Array) -> Array:
        answer = predict(x)
        answer[3:5] = np.nan if broken else answer[3:5]
        return answer

    safe = wrap(fragile, bundle, **OPTIONS)
    broken.append(True)
    with pytest.raises(InferenceError):
        safe(MIXED)


def test_the_probabilities_of_several_outputs_can_be_a_callable_s_answer(tmp_path: Path) -> None:
    bundle = write_ended_bundle(tmp_path / "b", ENDINGS["softmax and label"])
    session = session_of(bundle)
    safe = wrap(lambda x: session.run(["p"], {"image": x})[0], bundle, **OPTIONS)
    with Guard(bundle, **OPTIONS) as guard:
        np.testing.assert_allclose(safe(MIXED), guard.infer(MIXED).outputs["p"], rtol=1e-6, atol=1e-6)
    with pytest.raises(PredictorMismatchError, match=r"outputs \(label, p\).* must return the logits or the probab"):
        wrap(lambda x: session.run(["label"], {"image": x})[0], bundle, **OPTIONS)


def test_a_label_is_guarded_as_the_model_s_one_output(tmp_path: Path) -> None:
    bundle = write_ended_bundle(tmp_path / "b", ENDINGS["label"])
    safe = wrap(callable_of(bundle), bundle, **OPTIONS)
    np.testing.assert_array_equal(safe(MIXED), expected_of(bundle, MIXED))


class Labels:
    """Has `predict` alone."""

    def predict(self, x: Array) -> Array:
        return x


def test_what_is_no_predictor_is_refused_with_what_to_pass(tiny_bundle: Path) -> None:
    path = tiny_bundle / "original.onnx"
    safe = wrap(callable_of(tiny_bundle), tiny_bundle, **OPTIONS)
    for predictor, advice in (
        (str(path), r"got str; for an ONNX file, pass onnxruntime\.InferenceSession\(path\)"),
        (path, r"got PosixPath; for an ONNX file, pass onnxruntime\.InferenceSession\(path\)"),
        (path.read_bytes(), "got bytes; for an ONNX file, pass onnxruntime"),
        (onnx.load(path), r"InferenceSession\(model\.SerializeToString\(\)\)"),
        (safe.guard.bundle, "pass the predictor first, then the bundle"),
        (safe.guard, "already guarded"),
        (safe, "already guarded"),
        (Labels, "pass an instance of that class"),
        (Labels(), "predict but no predict_proba"),
        ({}, "got dict; pass an onnxruntime.InferenceSession, a torch.nn.Module, a classifier"),
        (None, "got NoneType; pass an"),
    ):
        with pytest.raises(OptionError, match=advice):
            wrap(predictor, tiny_bundle, **OPTIONS)


def test_a_callable_that_fails_on_the_probes_is_refused_with_its_reason(tiny_bundle: Path) -> None:
    def fails(x: Array) -> Array:
        raise TypeError("expected a tensor")

    reason = r"probes \(dtype float32, shape \(4, 3, 8, 8\)\): TypeError: expected a tensor"
    with pytest.raises(PredictorMismatchError, match=reason):
        wrap(fails, tiny_bundle, **OPTIONS)


def test_a_guarded_callable_cannot_be_copied_or_pickled(tiny_bundle: Path) -> None:
    safe = wrap(callable_of(tiny_bundle), tiny_bundle, **OPTIONS)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(CopyError, match=r"call mmguard\.wrap again"):
            copied(safe)
    with pytest.raises(AttributeError, match="might run the model without the guard"):
        safe.__wrapped__  # noqa: B018


@pytest.mark.parametrize("statistics", [("residual_margin_gap",), ()], ids=["guard", "corrected model"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_of_two_classes_the_second_s_probability_or_score_alone_is_guarded(
    tmp_path: Path, shape: tuple[int, ...], statistics: tuple[str, ...]
) -> None:
    bundle, decisions = write_ended_bundle(tmp_path / "b", ENDINGS["both of a sigmoid"], statistics), list[Decision]()
    predict, expected = callable_of(bundle), expected_of(bundle, MIXED)[:, 1].reshape(shape)

    def probability(x: Array) -> Array:
        return predict(x)[:, 1].reshape(shape)

    def score(x: Array) -> Array:
        p = predict(x).astype(np.float64)
        return (np.log(p[:, 1]) - np.log(np.maximum(p[:, 0], 1e-9))).reshape(shape).astype(np.float32)

    for answers, back in ((probability, lambda given: given), (score, expit)):
        answer = wrap(answers, bundle, on_decision=decisions.append, **OPTIONS)(MIXED)
        assert (answer.shape, answer.dtype) == (expected.shape, np.dtype(np.float32))
        np.testing.assert_allclose(back(answer), expected, atol=1e-6)
        np.testing.assert_array_equal((back(answer) > 0.5).ravel(), decisions[-1].labels == 1)


def test_a_guarded_callable_closes_its_guard(tiny_bundle: Path) -> None:
    predict = callable_of(tiny_bundle)
    safe = wrap(predict, tiny_bundle, **OPTIONS)
    check_closes(safe, lambda: safe(MIXED))
    assert predict(MIXED).shape == (len(MIXED), 3)


def test_after_an_exception_the_guard_is_closed_too(tiny_bundle: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        wrap(callable_of(tiny_bundle), tiny_bundle, **OPTIONS) as safe,
    ):
        raise ZeroDivisionError
    with pytest.raises(InferenceError, match="the guard is closed"):
        safe(MIXED)


def test_a_closed_predictor_leaves_an_open_bundle_usable(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for _ in range(2):
        with wrap(callable_of(tiny_bundle), bundle, **OPTIONS) as safe:
            assert safe(MIXED).shape == (len(MIXED), 3)
