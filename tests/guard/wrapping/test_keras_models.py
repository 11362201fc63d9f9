"""Models as of Keras, by an object of the same signatures."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mmguard.errors import InferenceError, InputError, OptionError, PredictorMismatchError
from mmguard.guard import Guard, Policy, wrap
from mmguard.guard.wrapping import GuardedModel
from mmguard.types import Decision
from tests.bundles import Array, Head, add_trigger, clean_inputs, write_tiny_bundle
from tests.guard.wrapping.endings import callable_of, check_closes, rows_of_the_original

MIXED = np.concatenate([clean_inputs(20, seed=3), add_trigger(clean_inputs(12, seed=4))])
OPTIONS: dict[str, Any] = {"registry": None, "threads": 1}


class Model:
    """What Keras 3 has of a model on its PyTorch backend, as far as it predicts."""

    name = "tiny"
    input_shape = (None, 3, 8, 8)

    def __init__(self, bundle: Path) -> None:
        self.run, self.calls = callable_of(bundle), list[dict[str, Any]]()

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: Any = "auto", steps: Any = None, callbacks: Any = None
    ) -> Array:
        self.calls.append({"batch_size": batch_size, "verbose": verbose, "steps": steps, "callbacks": callbacks})
        return self.run(np.asarray(x, np.float32))

    def __call__(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
        assert training is False
        return torch.tensor(self.run(np.asarray(x, np.float32)), requires_grad=True)

    def predict_step(self, data: Any) -> Any:
        return self.run(data)


def expected_of(bundle: Path, **policy: Any) -> Array:
    with Guard(bundle, policy=Policy(**policy), **OPTIONS) as guard:
        output: Array = guard.infer(MIXED).output
        return output


@pytest.mark.parametrize("policy", [{}, {"on_flag": "abstain"}, {"mode": "shadow"}], ids=str)
def test_arrays_and_tensors_are_guarded(tmp_path: Path, policy: dict[str, Any]) -> None:
    bundle, decisions = write_tiny_bundle(tmp_path / "b", head=Head.SOFTMAX), list[Decision]()
    safe = wrap(Model(bundle), bundle, policy=Policy(**policy), on_decision=decisions.append, **OPTIONS)
    rows, expected = rows_of_the_original(safe), expected_of(bundle, **policy)
    for answer in (safe.predict(MIXED), safe.predict(MIXED.astype(np.float64)), safe.predict_on_batch(MIXED.tolist())):
        assert isinstance(answer, np.ndarray)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected, rtol=1e-6, atol=1e-6)
    for given in (MIXED, torch.tensor(MIXED)):
        tensor = safe(given)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=1e-6)
    assert len(decisions) == 5
    assert sum(rows) == 0


def test_options_of_predict_reach_the_model(tiny_bundle: Path) -> None:
    model = Model(tiny_bundle)
    safe = wrap(model, tiny_bundle, **OPTIONS)
    model.calls.clear()
    safe.predict(MIXED, batch_size=16, verbose=0, callbacks=["mine"])
    assert model.calls == [{"batch_size": 16, "verbose": 0, "steps": None, "callbacks": ["mine"]}]


def test_training_and_what_is_no_array_are_refused(tiny_bundle: Path) -> None:
    safe = wrap(Model(tiny_bundle), tiny_bundle, **OPTIONS)
    with pytest.raises(OptionError, match="omit `training`"):
        safe(MIXED, training=True)
    with pytest.raises(InputError, match="expected a float32 NumPy array, got object"):
        safe.predict(x for x in MIXED)
    with pytest.raises(InputError, match="rows of equal length"):
        safe.predict([[1.0], [1.0, 2.0]])


def test_nothing_else_that_predicts_is_handed_through(tiny_bundle: Path) -> None:
    safe = wrap(Model(tiny_bundle), tiny_bundle, **OPTIONS)
    assert (safe.name, safe.input_shape) == ("tiny", (None, 3, 8, 8))
    for name in ("predict_step", "make_predict_function", "layers", "call", "fit", "run"):
        with pytest.raises(
            AttributeError, match=f"'{name}' of the wrapped predictor might run the model without the guard"
        ):
            getattr(safe, name)


def test_another_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(PredictorMismatchError, match="not the model of"):
        wrap(Model(write_tiny_bundle(tmp_path / "b", seed=1)), tiny_bundle, **OPTIONS)


def test_a_tensor_of_an_unknown_library_is_refused_in_a_call(tiny_bundle: Path) -> None:
    class Foreign(Model):
        def __call__(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
            return self.run(x).tolist()

    safe = wrap(Foreign(tiny_bundle), tiny_bundle, **OPTIONS)
    with pytest.raises(PredictorMismatchError, match="returned list; expected a NumPy array, or a PyTorch, Keras"):
        safe(MIXED)
    assert safe.predict(MIXED).shape == (len(MIXED), 3)


def test_a_model_on_keras_s_pytorch_backend_is_one_of_keras(tiny_bundle: Path) -> None:
    """There it is a module too, and always in training mode; its own calls say whether they train."""

    class OnTorch(Model, torch.nn.Module):
        def __init__(self, bundle: Path) -> None:
            torch.nn.Module.__init__(self)
            Model.__init__(self, bundle)

        def predict_on_batch(self, x: Any) -> Array:
            return self.predict(x)

    model = OnTorch(tiny_bundle)
    assert model.training
    safe = wrap(model, tiny_bundle, **OPTIONS)
    assert isinstance(safe, GuardedModel)
    np.testing.assert_array_equal(safe.predict(MIXED), expected_of(tiny_bundle))


def test_a_tensor_of_another_backend_comes_back_as_one(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        def __init__(self, values: Array) -> None:
            self.values = np.asarray(values)

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
            return self.values

    class Elsewhere(Model):
        def __call__(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
            return Tensor(self.run(x))

    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(ops=SimpleNamespace(convert_to_tensor=Tensor)))
    answer = wrap(Elsewhere(tiny_bundle), tiny_bundle, **OPTIONS)(Tensor(MIXED))
    assert isinstance(answer, Tensor)
    np.testing.assert_array_equal(answer.values, expected_of(tiny_bundle))


def test_a_guarded_model_closes_its_guard(tiny_bundle: Path) -> None:
    safe = wrap(Model(tiny_bundle), tiny_bundle, **OPTIONS)
    check_closes(safe, lambda: safe.predict(MIXED))
    with pytest.raises(InferenceError, match="the guard is closed"):
        safe(MIXED)
