"""Recovers logits from the probabilities that a predictor returns.

The test needs logits. Without the recovery, the bundle's original network would have to run as well, just to compute
the logits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.guard.sessions import PROVIDERS, open_session, run
from mmguard.guard.wrapping.logit_transforms import (
    LAYOUTS,
    PROBE_TOLERANCE,
    LogitTransform,
    ProbabilityLayout,
    as_array,
)
from mmguard.types import BoolArray, FloatArray

Logits = npt.NDArray[np.float32]

SHIFT_INVARIANT = frozenset(
    {
        "margin_gap",
        "residual_margin_gap",
        "centred_residual_norm",
        "activation_distance",
        "activation_excess",
        "supported_margin_gap",
        "original_margin",
    }
)
"""Statistics that do not change if a constant is added to all logits of a row.

This constant cannot be recovered from probabilities.
"""

TOLERANCE = 1e-3
"""Largest accepted error of a recovered logit.

The margin gaps of clean inputs vary by at least 100 times this value.
"""

TIE = 1e-4
"""If the two largest logits of a row differ by at most this value, rounding errors may swap them."""

GRID_ROWS = 32


@dataclass(frozen=True)
class LogitRecovery:
    """Computes logits, up to a constant per row, from one output of the model.

    A recovery is used only if the test does not need the constant (see `SHIFT_INVARIANT`), or if the constant is known:
    for a model that ends in a single sigmoid of a score s, the logits are exactly (0, s). The recovery must also
    reproduce two sets of logits from the corresponding outputs: the logits of the bundle's probes, and random logits
    of all magnitudes. For the random logits, the bundle's own head computes the outputs. Outputs that contain only
    labels or top classes cannot be used.

    Attributes:
        name: name of the output.
        layout: how the output represents the probabilities.
        min_probabilities: for each class (K,), the probability below which rounding errors are too large.
    """

    name: str
    layout: ProbabilityLayout
    min_probabilities: FloatArray

    def __call__(self, output: Any) -> tuple[Logits, BoolArray]:
        """Recover logits.

        Args:
            output: the output, an array (N, ...) or a list of maps from classes to numbers.

        Returns:
            Logits (N, K) float32, shifted so that the first class has logit 0; and a mask (N,) bool of the rows that
            are accurate enough for the test. A row is not accurate enough if a probability is below
            `min_probabilities`, if two classes share the smallest probability (the predictor may have clipped both), or
            if the two largest logits differ by at most `TIE`.
        """
        if not len(output):
            return np.zeros((0, len(self.min_probabilities)), np.float32), np.zeros(0, np.bool_)
        values = self.layout.to_columns(as_array(output).astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = values if self.layout.logarithmic else np.log(values)
            logits = logs - logs[:, :1]
        good = np.isfinite(logits).all(axis=1)
        if not self.layout.logarithmic:
            good &= (values >= self.min_probabilities).all(axis=1)
        if logits.shape[1] > 2:
            good &= (values == values.min(axis=1, keepdims=True)).sum(axis=1) == 1
        second, first = np.partition(np.nan_to_num(logits), -2, axis=1)[:, -2:].T
        return logits.astype(np.float32), good & (first - second > TIE)

    def error(self, output: Any, logits: npt.NDArray[np.floating], *, centred: bool = True) -> float:
        """Return the largest error of the recovered logits.

        Args:
            output: an output whose logits are known, an array (N, ...) or a list of maps from classes to numbers.
            logits: the known logits (N, K).
            centred: whether to subtract the mean of each row before the comparison.

        Returns:
            The largest absolute error over the rows that are accurate enough; infinity if there is no such row.
        """
        found, good = self(output)
        if not good.any():
            return np.inf
        a, b = (each[good].astype(np.float64) for each in (found, logits))
        if centred:
            a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        return float(np.abs(a - b).max())


def recovery_from_outputs(bundle: Bundle, outputs: Mapping[str, Any]) -> LogitRecovery | None:
    """Find a way to recover logits from one of the model's own outputs.

    Args:
        bundle: the guard bundle.
        outputs: the predictor's outputs on the bundle's probes, by name.

    Returns:
        The recovery; None if the logits cannot be recovered from any output.
    """
    grid, derived = _head_outputs(bundle)
    for name, expected in derived.items():
        for recovery in _candidates(name, outputs[name], len(bundle.manifest.classes)):
            if recovery.error(expected, grid) <= TOLERANCE and _is_usable(recovery, bundle, outputs[name]):
                return recovery
    return None


def recovery_from_transform(bundle: Bundle, transform: LogitTransform, name: str, output: Any) -> LogitRecovery | None:
    """Find a way to recover logits from an array that was computed from logits and is not an output of the model.

    Args:
        bundle: the guard bundle.
        transform: computes the array from the logits.
        name: name under which the recovery will receive the array.
        output: the array on the bundle's probes.

    Returns:
        The recovery; None if the logits cannot be recovered from the array.
    """
    classes = len(bundle.manifest.classes)
    grid, derived = _head_outputs(bundle)
    head_keeps_logits = not derived or any(
        recovery.error(expected, grid) <= TOLERANCE
        for each, expected in derived.items()
        for recovery in _candidates(each, expected, classes)
    )
    candidates = [each for each in _candidates(name, output, classes) if each.layout is transform.layout]
    if not (head_keeps_logits and candidates):
        return None
    # It is unknown how the predictor computes the smaller of two probabilities, so the strictest limits apply.
    return candidates[-1] if _is_usable(candidates[-1], bundle, output) else None


def _candidates(name: str, output: Any, classes: int) -> Iterator[LogitRecovery]:
    """Yield the recoveries that fit an output's shape and dtype, with the loosest limits of each layout first."""
    values = as_array(output)
    if values.dtype not in (np.float32, np.float64) or _has_half_resolution(values):
        return
    for layout in LAYOUTS:
        if layout.matches(values, classes):
            for limits in _probability_limits(values, classes):
                yield LogitRecovery(name, layout, limits)


def _has_half_resolution(values: npt.NDArray[np.floating]) -> bool:
    """Return whether the last 13 bits of every value are 0 in float32, as for float16 and bfloat16 values."""
    return not (values.astype(np.float32).view(np.uint32) & 0x1FFF).any()


def _probability_limits(values: npt.NDArray[np.floating], classes: int) -> list[FloatArray]:
    """Return the candidates for `min_probabilities`.

    With two classes, the predictor may have computed one or both probabilities as 1 minus the other probability, which
    adds a rounding error.
    """
    is_single = np.array_equal(values.astype(np.float32), values, equal_nan=True)
    normal = float(np.finfo(np.float32).tiny)
    rounded = float(np.finfo(np.float32 if is_single else values.dtype).eps) / TOLERANCE
    limits = [np.full(classes, normal)]
    return [*limits, np.array([rounded, normal]), np.array([rounded, rounded])] if classes == 2 else limits


def _is_usable(recovery: LogitRecovery, bundle: Bundle, output: Any) -> bool:
    """Return whether a recovery is accurate enough on the probes for the bundle's test."""
    logits, null = bundle.probes().original, bundle.manifest.null
    allowed = PROBE_TOLERANCE * max(1.0, float(np.abs(logits).max()))
    if recovery.error(output, logits) > allowed:
        return False
    shift_invariant = null is None or all(criterion.statistic in SHIFT_INVARIANT for criterion in null.criteria)
    return shift_invariant or recovery.error(output, logits, centred=False) <= allowed


def _head_outputs(bundle: Bundle) -> tuple[Logits, dict[str, Any]]:
    """Return random logits of all magnitudes, and the derived outputs of the bundle's head for these logits."""
    rng, names = np.random.default_rng(0), bundle.manifest.output.derived
    shape = (GRID_ROWS, len(bundle.manifest.classes))
    grid = np.concatenate([scale * rng.normal(size=shape) for scale in (0.1, 1, 3, 10, 30)]).astype(np.float32)
    if not names:
        return grid, {}
    session = open_session(bundle.runtime_graph("head"), PROVIDERS["cpu"], 1)
    return grid, dict(zip(names, run(session, names, grid), strict=True))
