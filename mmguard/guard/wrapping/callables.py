"""A callable of NumPy arrays with a guard in front."""

from typing import Any

import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.guard.guard import Batch
from mmguard.guard.wrapping.answers import Ask, answers_of
from mmguard.guard.wrapping.face import Face
from mmguard.guard.wrapping.original import OnDecision


class GuardedPredictor(Face):
    """A callable with a guard in front: takes a batch (N, ...) and returns what the callable returns (N, ...)."""

    def __init__(self, predictor: Ask, bundle: Bundle, on_decision: OnDecision | None, options: dict[str, Any]) -> None:
        self._answers = answers_of(bundle, predictor, on_decision, options)
        super().__init__(predictor, self._answers.wrapped.guard)

    def __call__(self, x: Batch) -> npt.NDArray[Any]:
        """Predict a batch (N, ...) of the model's dtype; returns the answer (N, ...) with the policy applied."""
        return self._answers(x, self._predictor)[0]
