"""A guarded callable that takes and returns NumPy arrays."""

from typing import Any

import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.guard.guard import Batch
from mmguard.guard.wrapping.base import WrappedPredictor
from mmguard.guard.wrapping.guarded_call import PredictArray, guard_call
from mmguard.guard.wrapping.predictor_guard import OnDecision


class GuardedPredictor(WrappedPredictor):
    """A guarded callable that takes a batch (N, ...) and returns one array (N, ...).

    Args:
        predictor: the callable, which takes a batch (N, ...) and returns one array (N, ...).
        bundle: the guard bundle of the predictor's model.
        on_decision: called with the decision for each batch.
        options: options of `Guard`.
    """

    def __init__(
        self, predictor: PredictArray, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]
    ) -> None:
        self._call = guard_call(bundle, predictor, on_decision, options)
        super().__init__(predictor, self._call.predictor_guard.guard)

    def __call__(self, x: Batch) -> npt.NDArray[Any]:
        """Predict a batch.

        Args:
            x: inputs (N, ...) of the model's dtype.

        Returns:
            The callable's output (N, ...) with the policy applied.
        """
        return self._call(x, self._predictor)[0]
