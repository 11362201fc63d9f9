"""The user's predictor in the place of the bundle's original network."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.errors import PredictorMismatchError
from mmguard.guard.decide import rows_of
from mmguard.guard.guard import Batch, Guard, GuardedBatch
from mmguard.guard.sessions import NetworkOutput
from mmguard.guard.wrapping.recovery import LogitRecovery, Logits
from mmguard.guard.wrapping.views import PROBE_TOLERANCE, as_array, difference
from mmguard.types import BoolArray, Decision

logger = logging.getLogger(__name__)

Outputs = dict[str, Any]
OnDecision = Callable[[Decision], None]
Predict = Callable[[Batch], Outputs]
"""From a batch (N, ...) to outputs by name: those of the bundle's model, or one array that is made of its logits."""


class WrappedOriginal:
    """A guard whose original network is the user's predictor.

    Args:
        guard: of the bundle that was calibrated from the predictor's model.
        on_decision: called with every decision. What it raises is logged and counted, and the answer is still given.
    """

    def __init__(self, guard: Guard, on_decision: OnDecision | None) -> None:
        self.guard = guard
        self.output = guard.bundle.manifest.output
        self._on_decision = on_decision

    def infer(self, x: Batch, predict: Predict, recovery: LogitRecovery | None = None) -> GuardedBatch:
        """Judge a batch that the predictor answers.

        Args:
            recovery: gives the logits where they are not among its outputs; None runs the bundle's original for them.
        """
        result = self.guard.infer(x, partial(self._as_network, predict, recovery))
        if self._on_decision is not None:
            try:
                every = np.ones(len(result.decision), np.bool_)
                self._on_decision(rows_of(result.decision, every))  # a copy, which it may change
            except Exception:
                logger.exception("on_decision failed on a batch of %d; the answer is still given", len(x))
                self.guard.count_error("on_decision")
        return result

    def _as_network(self, predict: Predict, recovery: LogitRecovery | None, x: Batch) -> NetworkOutput:
        outputs, name = predict(x.copy()), self.output.logits  # a predictor may write to its input, which others read
        logits = np.asarray(outputs[name], np.float32) if name in outputs else self._logits(outputs, recovery, x)
        if name in self.output.names:
            outputs.setdefault(name, logits)
        return NetworkOutput(outputs, logits)

    def _logits(self, outputs: Outputs, recovery: LogitRecovery | None, x: Batch) -> Logits:
        """Logits (N, K) of what the predictor answered; a row that it answered by NaN has none."""
        if recovery is None:
            logits = self.guard.networks.original(x).logits.copy()
        else:
            logits, good = recovery(outputs[recovery.name])
            if not good.all():
                logits[~good] = self.guard.networks.original(x[~good]).logits
        logits[self._unanswered(outputs, len(x))] = np.nan
        return logits

    def _unanswered(self, outputs: Outputs, n: int) -> BoolArray:
        """Rows (N,) with NaN in an array that is made of the logits."""
        rows = np.zeros(n, np.bool_)
        for name, output in outputs.items():
            made_of_logits = name in self.output.derived or name not in self.output.names
            if made_of_logits and isinstance(output, np.ndarray) and output.dtype.kind == "f" and len(output) == n:
                rows |= np.isnan(output).any(axis=tuple(range(1, output.ndim)))
        return rows


def refuse_another_model(bundle: Bundle, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare what a predictor gives for the bundle's probes with what the bundle's model gives, by name.

    Raises:
        PredictorMismatchError: they are not the same.
    """
    for name, output in found.items():
        got, wanted = as_array(output), as_array(expected[name])
        if got.shape != wanted.shape:
            raise PredictorMismatchError(f"the predictor must return {name!r} of shape {wanted.shape}, got {got.shape}")
        if (apart := difference(got, wanted)) > PROBE_TOLERANCE:
            raise PredictorMismatchError(
                f"the predictor is not the model of {bundle.path}: its outputs on the bundle's probes differ by "
                f"{apart:.2g} relative; calibrate a bundle from the model that it runs (of PyTorch, in evaluation mode)"
            )


def probes_of(bundle: Bundle) -> npt.NDArray[Any]:
    """The bundle's probes (n, ...) in the dtype that its model takes."""
    return bundle.probes().x.astype(bundle.manifest.input.dtype)
