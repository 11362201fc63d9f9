"""A guarded model with Keras's methods. This module does not import Keras."""

from typing import Any

import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.errors import OptionError
from mmguard.guard.guard import Batch
from mmguard.guard.wrapping.base import WrappedPredictor
from mmguard.guard.wrapping.guarded_call import Array, guard_call
from mmguard.guard.wrapping.predictor_guard import OnDecision
from mmguard.guard.wrapping.tensors import as_batch, like, to_array


class GuardedModel(WrappedPredictor):
    """A guarded model with Keras's methods. It is not a Keras model itself.

    Like the model itself, the object returns arrays from `predict` and `predict_on_batch`, and a tensor when it is
    called. Attributes that describe the model are forwarded. Attributes that change the model or give access to its
    parts are not forwarded.

    Args:
        model: the model.
        bundle: the guard bundle of the model.
        on_decision: called with the decision for each batch.
        options: options of `Guard`.
    """

    forwarded = frozenset({"name", "input_shape", "output_shape", "summary", "count_params"})

    def __init__(self, model: Any, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]) -> None:
        self._dtype = bundle.manifest.input.dtype
        self._call = guard_call(bundle, lambda x: to_array(model.predict(x, verbose=0)), on_decision, options)
        super().__init__(model, self._call.predictor_guard.guard)

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = "auto", **options: Any) -> npt.NDArray[Any]:
        """Predict inputs.

        Args:
            x: inputs (N, ...), an array or a tensor. Data sets and generators are not supported.
            batch_size: passed to the model's `predict`. The clipped network processes all N inputs at once.
            verbose: passed to the model's `predict`.
            options: further arguments for the model's `predict`.

        Returns:
            The model's output (N, ...) with the policy applied.

        Raises:
            InputError: The model does not accept the inputs.
            InferenceError: A network failed, or the guard is closed.
        """

        def run(batch: Batch) -> Array:
            return to_array(self._predictor.predict(batch, batch_size=batch_size, verbose=verbose, **options))

        return self._call(as_batch(x, self._dtype), run)[0]

    def predict_on_batch(self, x: Any) -> npt.NDArray[Any]:
        """Predict inputs without a progress bar.

        Args:
            x: inputs (N, ...), an array or a tensor.

        Returns:
            The model's output (N, ...) with the policy applied.
        """
        return self.predict(x, verbose=0)

    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """Predict inputs and return a tensor.

        Args:
            x: inputs (N, ...), an array or a tensor.
            training: must be None or False.

        Returns:
            The model's output (N, ...) with the policy applied, as a tensor of the model's library.

        Raises:
            OptionError: `training` is true.
            InputError: The model does not accept the inputs.
            InferenceError: A network failed, or the guard is closed.
            PredictorMismatchError: The model does not return a tensor of PyTorch, TensorFlow or Keras.
        """
        if training:
            raise OptionError(
                "a guarded model runs in inference mode only; omit `training`, or call the original model"
            )
        own: Any = None

        def run(batch: Batch) -> Array:
            nonlocal own
            own = self._predictor(batch, training=False)
            return to_array(own)

        answer, _ = self._call(as_batch(x, self._dtype), run)
        return like(own, answer)
