"""A Keras-like model with a guard in front. Imports no Keras."""

from typing import Any

import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.errors import OptionError
from mmguard.guard.guard import Batch
from mmguard.guard.wrapping.answers import Array, answers_of
from mmguard.guard.wrapping.face import Face
from mmguard.guard.wrapping.original import OnDecision
from mmguard.guard.wrapping.tensors import as_batch, like, to_array


class GuardedModel(Face):
    """A Keras-like model with a guard in front; it is no Keras model itself.

    `predict` and `predict_on_batch` give arrays, and a call gives a tensor, as the model's own do. What tells of the
    model is handed through; all that changes it or leads to its parts is refused.
    """

    handed_through = frozenset({"name", "input_shape", "output_shape", "summary", "count_params"})

    def __init__(self, model: Any, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]) -> None:
        self._dtype = bundle.manifest.input.dtype
        self._answers = answers_of(bundle, lambda x: to_array(model.predict(x, verbose=0)), on_decision, options)
        super().__init__(model, self._answers.wrapped.guard)

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = "auto", **options: Any) -> npt.NDArray[Any]:
        """Predict inputs (N, ...), an array or a tensor; returns the model's answer (N, ...) with the policy applied.

        Args:
            batch_size, verbose, options: the model's own, of its `predict`. The clipped network takes all N at once.

        Raises:
            InputError: inputs that the model does not take, such as a data set or a generator.
            InferenceError: the networks could not answer.
        """

        def ask(batch: Batch) -> Array:
            return to_array(self._predictor.predict(batch, batch_size=batch_size, verbose=verbose, **options))

        return self._answers(as_batch(x, self._dtype), ask)[0]

    def predict_on_batch(self, x: Any) -> npt.NDArray[Any]:
        """As `predict`, without its progress."""
        return self.predict(x, verbose=0)

    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """Predict inputs (N, ...), an array or a tensor; returns a tensor (N, ...) with the policy applied.

        Raises:
            OptionError: `training` is true. InputError, InferenceError: as `predict` raises them.
            PredictorMismatchError: the model returns no tensor of PyTorch, TensorFlow or Keras.
        """
        if training:
            raise OptionError("a guarded model answers as in inference; leave training out, or call the model itself")
        own: Any = None

        def ask(batch: Batch) -> Array:
            nonlocal own
            own = self._predictor(batch, training=False)
            return to_array(own)

        answer, _ = self._answers(as_batch(x, self._dtype), ask)
        return like(own, answer)
