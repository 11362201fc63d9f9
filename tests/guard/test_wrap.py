from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from prometheus_client import CollectorRegistry

from mmguard.errors import InferenceError, InputError, OptionError, PredictorMismatchError
from mmguard.guard import Guard, Policy, wrap
from mmguard.guard.sessions import open_session
from mmguard.types import Decision
from tests.bundles import OUTPUT, Array, Tail, add_trigger, clean_inputs, tiny_network, write_tiny_bundle

MIXED = np.concatenate([clean_inputs(20, seed=3), add_trigger(clean_inputs(12, seed=4))])
OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}


def session_of(bundle: Path) -> ort.InferenceSession:
    return open_session(bundle / "original.onnx", ["CPUExecutionProvider"], 1)


def callable_of(bundle: Path) -> Callable[[Array], Array]:
    session = session_of(bundle)

    def predict(x: Array) -> Array:
        output: Array = session.run(None, {"image": x})[0]
        return output

    return predict


def expected_of(bundle: Path, x: Array, **policy: Any) -> Array:
    with Guard(bundle, policy=Policy(**policy), **OPTIONS) as guard:
        output: Array = guard.infer(x).output
        return output


@pytest.mark.parametrize("tail", list(Tail))
def test_a_wrapped_callable_answers_as_the_guard_does(tmp_path: Path, tail: Tail) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", tail=tail)
    safe = wrap(callable_of(bundle), bundle, **OPTIONS)
    np.testing.assert_array_equal(safe(MIXED), expected_of(bundle, MIXED))


@pytest.mark.parametrize("tail", list(Tail))
@pytest.mark.parametrize("names", [None, []])
def test_a_wrapped_session_runs_as_the_session_does(tmp_path: Path, tail: Tail, names: list[str] | None) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", tail=tail)
    safe = wrap(session_of(bundle), bundle, **OPTIONS)
    (output,) = safe.run(names, {"image": MIXED})
    np.testing.assert_array_equal(output, expected_of(bundle, MIXED))
    (output,) = safe.run([OUTPUT[tail]], {"image": MIXED})
    np.testing.assert_array_equal(output, expected_of(bundle, MIXED))


def test_what_is_not_run_is_the_session_s_own(tiny_bundle: Path) -> None:
    safe = wrap(session_of(tiny_bundle), tiny_bundle, **OPTIONS)
    assert [node.name for node in safe.get_inputs()] == ["image"]
    assert safe.get_providers() == ["CPUExecutionProvider"]


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


@pytest.mark.parametrize("tail", [Tail.SOFTMAX, Tail.LOG_SOFTMAX])
def test_logits_in_place_of_probabilities_are_refused(tiny_bundle: Path, tmp_path: Path, tail: Tail) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", tail=tail)
    with pytest.raises(PredictorMismatchError, match="differ by"):
        wrap(callable_of(tiny_bundle), bundle, **OPTIONS)


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


def test_feeds_and_outputs_that_the_model_does_not_have_are_refused(tiny_bundle: Path) -> None:
    safe = wrap(session_of(tiny_bundle), tiny_bundle, **OPTIONS)
    with pytest.raises(InputError, match=r"the one input 'image', got \['x'\]"):
        safe.run(None, {"x": MIXED})
    with pytest.raises(InputError, match="the one input 'image'"):
        safe.run(None, {"image": MIXED, "mask": MIXED})
    with pytest.raises(InputError, match=r"the model's outputs are 'logits', got \['relu1'\]"):
        safe.run(["relu1"], {"image": MIXED})
    with pytest.raises(InputError, match="expected shape"):
        safe.run(None, {"image": MIXED[0]})


def test_a_predictor_that_gives_nan_is_an_inference_error(tiny_bundle: Path) -> None:
    predict, broken = callable_of(tiny_bundle), list[bool]()

    def fragile(x: Array) -> Array:
        return predict(x) * np.float32(np.nan if broken else 1)

    safe = wrap(fragile, tiny_bundle, **OPTIONS)
    broken.append(True)
    with pytest.raises(InferenceError, match="NaN or infinite"):
        safe(MIXED)


def test_a_session_of_a_fixed_batch_takes_any(tiny_bundle: Path, tmp_path: Path) -> None:
    model = tiny_network(batch=None).model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    (tmp_path / "fixed.onnx").write_bytes(model.SerializeToString())
    session = open_session(tmp_path / "fixed.onnx", ["CPUExecutionProvider"], 1)
    safe = wrap(session, tiny_bundle, **OPTIONS)
    for n in (0, 4, 5, 32):
        (output,) = safe.run(None, {"image": MIXED[:n]})
        np.testing.assert_allclose(output, expected_of(tiny_bundle, MIXED[:n]), rtol=1e-4, atol=1e-4)


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
