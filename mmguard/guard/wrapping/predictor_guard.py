"""A guard whose original network is the user's predictor."""

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
from mmguard.guard.wrapping.logit_recovery import LogitRecovery, Logits
from mmguard.guard.wrapping.logit_transforms import PROBE_TOLERANCE, as_array, relative_difference
from mmguard.types import BoolArray, Decision

logger = logging.getLogger(__name__)

Outputs = dict[str, Any]
OnDecision = Callable[[Decision], None]
PredictOutputs = Callable[[Batch], Outputs]
"""Takes a batch (N, ...) and returns arrays by name: the model's outputs, or an array computed from the logits."""


class PredictorGuard:
    """A guard whose original network is the user's predictor.

    Args:
        guard: guard of the bundle that was calibrated from the predictor's model.
        on_decision: called with the decision for each batch. Exceptions raised by the callback are logged and counted,
            and the predictions are still returned.

    Attributes:
        guard: the guard.
        output: the manifest's description of the model's outputs.
    """

    def __init__(self, guard: Guard, on_decision: OnDecision | None) -> None:
        self.guard = guard
        self.output = guard.bundle.manifest.output
        self._on_decision = on_decision

    def infer(self, x: Batch, predict: PredictOutputs, recovery: LogitRecovery | None = None) -> GuardedBatch:
        """Predict and judge a batch.

        Args:
            x: inputs (N, ...) of the model's dtype.
            predict: calls the predictor.
            recovery: computes the logits if the predictor does not return them. If `recovery` is None, the bundle's
                original network computes the logits.

        Returns:
            The decision, and the predictor's outputs with the policy applied.
        """
        result = self.guard.infer(x, partial(self._as_network, predict, recovery))
        if self._on_decision is not None:
            try:
                every = np.ones(len(result.decision), np.bool_)
                self._on_decision(rows_of(result.decision, every))  # a copy, which the callback may modify
            except Exception:
                logger.exception(
                    "on_decision failed for a batch of %d inputs; the predictions are returned anyway", len(x)
                )
                self.guard.count_error("on_decision")
        return result

    def _as_network(self, predict: PredictOutputs, recovery: LogitRecovery | None, x: Batch) -> NetworkOutput:
        outputs, name = predict(x.copy()), self.output.logits  # a predictor may write to its input
        logits = np.asarray(outputs[name], np.float32) if name in outputs else self._logits(outputs, recovery, x)
        if name in self.output.names:
            outputs.setdefault(name, logits)
        return NetworkOutput(outputs, logits)

    def _logits(self, outputs: Outputs, recovery: LogitRecovery | None, x: Batch) -> Logits:
        """Return the logits (N, K) for the predictor's outputs. Rows with NaN in these outputs become NaN."""
        if recovery is None:
            logits = self.guard.networks.original(x).logits.copy()
        else:
            logits, good = recovery(outputs[recovery.name])
            if not good.all():
                logits[~good] = self.guard.networks.original(x[~good]).logits
        logits[self._rows_with_nan(outputs, len(x))] = np.nan
        return logits

    def _rows_with_nan(self, outputs: Outputs, n: int) -> BoolArray:
        """Return a mask (N,) of the rows that contain NaN in an array computed from the logits."""
        rows = np.zeros(n, np.bool_)
        for name, output in outputs.items():
            from_logits = name in self.output.derived or name not in self.output.names
            if from_logits and isinstance(output, np.ndarray) and output.dtype.kind == "f" and len(output) == n:
                rows |= np.isnan(output).any(axis=tuple(range(1, output.ndim)))
        return rows


def check_same_model(bundle: Bundle, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that a predictor runs the bundle's model, by comparing the outputs of both on the bundle's probes.

    Args:
        bundle: the bundle.
        found: the predictor's outputs on the probes, by name.
        expected: the outputs of the bundle's model on the probes, by name.

    Raises:
        PredictorMismatchError: The shape of an output differs, or its values differ by more than `PROBE_TOLERANCE`.
    """
    for name, output in found.items():
        got, wanted = as_array(output), as_array(expected[name])
        if got.shape != wanted.shape:
            raise PredictorMismatchError(
                f"the predictor must return {name!r} of shape {wanted.shape}, got {got.shape}; wrap the model of "
                f"{bundle.path}, or calibrate a bundle from the predictor's model"
            )
        if (difference := relative_difference(got, wanted)) > PROBE_TOLERANCE:
            raise PredictorMismatchError(
                f"the predictor is not the model of {bundle.path}: on the bundle's probes, the outputs of the "
                f"predictor and the model differ by {difference:.2g} (relative to the largest output); calibrate a "
                "bundle from the predictor's model (a PyTorch module must be in evaluation mode)"
            )


def probe_inputs(bundle: Bundle) -> npt.NDArray[Any]:
    """Return the bundle's probes.

    Args:
        bundle: the bundle.

    Returns:
        Inputs (n, ...) of the model's dtype.
    """
    return bundle.probes().x.astype(bundle.manifest.input.dtype)
