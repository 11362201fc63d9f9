"""The original's logits from its probabilities, so that a model which ends in a softmax runs once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmguard.bundle.bundle import Bundle
from mmguard.guard.sessions import PROVIDERS, open_session, run
from mmguard.guard.wrapping.views import FORMS, PROBE_TOLERANCE, Form, View, as_array
from mmguard.types import BoolArray, FloatArray

Logits = npt.NDArray[np.float32]

LEVEL_FREE = frozenset({"margin_gap", "residual_margin_gap", "centred_residual_norm"})
"""Statistics of the differences between a row's logits, which are all that its probabilities keep."""

TOLERANCE = 1e-3
"""Largest error of a recovered logit; clean margin gaps spread a hundred times as far, or more."""

TIE = 1e-4
"""Rows whose two largest logits are nearer than this may change places by rounding."""

GRID_ROWS = 32


@dataclass(frozen=True)
class LogitRecovery:
    """Logits, up to a constant of each row, from one output of the model.

    It is used where the test asks for no more (see `LEVEL_FREE`; the logits (0, s) of one sigmoid are recovered whole,
    so any test will do), and where it gives the logits of the bundle's probes, and of logits of every size that went
    through the bundle's own head. Labels and top classes are no such output.

    Attributes:
        name: of the output. form: of what it holds.
        least: (K,), probabilities below which rounding has taken too much.
    """

    name: str
    form: Form
    least: FloatArray

    def __call__(self, output: Any) -> tuple[Logits, BoolArray]:
        """Logits (N, K) float32, with the first class at 0, and which of the N rows are good for the test.

        A row is not where a probability is below `least`, or two classes share the smallest (a limit may have been put
        on it), or two might share the largest.
        """
        if not len(output):
            return np.zeros((0, len(self.least)), np.float32), np.zeros(0, np.bool_)
        values = self.form.columns(as_array(output).astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = values if self.form.logarithmic else np.log(values)
            logits = logs - logs[:, :1]
        good = np.isfinite(logits).all(axis=1)
        if not self.form.logarithmic:
            good &= (values >= self.least).all(axis=1)
        if logits.shape[1] > 2:
            good &= (values == values.min(axis=1, keepdims=True)).sum(axis=1) == 1
        second, first = np.partition(np.nan_to_num(logits), -2, axis=1)[:, -2:].T
        return logits.astype(np.float32), good & (first - second > TIE)

    def error(self, output: Any, logits: npt.NDArray[np.floating], *, centred: bool = True) -> float:
        """Largest error over the good rows of what is known to come from these logits (N, K); infinite if none is."""
        found, good = self(output)
        if not good.any():
            return np.inf
        a, b = (each[good].astype(np.float64) for each in (found, logits))
        if centred:
            a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        return float(np.abs(a - b).max())


def of_outputs(bundle: Bundle, outputs: Mapping[str, Any]) -> LogitRecovery | None:
    """The way back from one of the model's own outputs.

    Args:
        outputs: by name, what the predictor gives for the bundle's probes.
    """
    grid, made = _through_head(bundle)
    for name, expected in made.items():
        for recovery in _candidates(name, outputs[name], len(bundle.manifest.classes)):
            if recovery.error(expected, grid) <= TOLERANCE and _may_be_used(recovery, bundle, outputs[name]):
                return recovery
    return None


def of_view(bundle: Bundle, view: View, name: str, output: Any) -> LogitRecovery | None:
    """The way back from an array that is no output of the bundle's model, but a view of its logits.

    Args:
        name: under which that array will come. output: the array for the bundle's probes.
    """
    classes = len(bundle.manifest.classes)
    grid, made = _through_head(bundle)
    whole = not made or any(
        recovery.error(expected, grid) <= TOLERANCE
        for each, expected in made.items()
        for recovery in _candidates(each, expected, classes)
    )
    candidates = [each for each in _candidates(name, output, classes) if each.form is view.form]
    if not (whole and candidates):
        return None
    # How the predictor computes the smaller one of two probabilities is unknown, so the strictest limits hold.
    return candidates[-1] if _may_be_used(candidates[-1], bundle, output) else None


def _candidates(name: str, output: Any, classes: int) -> Iterator[LogitRecovery]:
    """Ways back that the array's shape and precision allow, of each form the most generous limits first."""
    values = as_array(output)
    if values.dtype not in (np.float32, np.float64) or _is_half(values):
        return
    for form in FORMS:
        if form.fits(values, classes):
            for least in _limits(values, classes):
                yield LogitRecovery(name, form, least)


def _is_half(values: npt.NDArray[np.floating]) -> bool:
    """Whether all values would fit into float16 or bfloat16: the last 13 bits of float32 are neither's."""
    return not (values.astype(np.float32).view(np.uint32) & 0x1FFF).any()


def _limits(values: npt.NDArray[np.floating], classes: int) -> list[FloatArray]:
    """Smallest normal numbers; of two classes one, or each, may be 1 less the other, with the rounding of that."""
    single = np.array_equal(values.astype(np.float32), values, equal_nan=True)
    normal = float(np.finfo(np.float32).tiny)
    rounded = float(np.finfo(np.float32 if single else values.dtype).eps) / TOLERANCE
    limits = [np.full(classes, normal)]
    return [*limits, np.array([rounded, normal]), np.array([rounded, rounded])] if classes == 2 else limits


def _may_be_used(recovery: LogitRecovery, bundle: Bundle, output: Any) -> bool:
    logits, null = bundle.probes().original, bundle.manifest.null
    allowed = PROBE_TOLERANCE * max(1.0, float(np.abs(logits).max()))
    if recovery.error(output, logits) > allowed:
        return False
    level_free = null is None or all(criterion.statistic in LEVEL_FREE for criterion in null.criteria)
    return level_free or recovery.error(output, logits, centred=False) <= allowed


def _through_head(bundle: Bundle) -> tuple[Logits, dict[str, Any]]:
    """Logits of all sizes, and the derived outputs that the bundle's head makes of them."""
    rng, names = np.random.default_rng(0), bundle.manifest.output.derived
    shape = (GRID_ROWS, len(bundle.manifest.classes))
    grid = np.concatenate([scale * rng.normal(size=shape) for scale in (0.1, 1, 3, 10, 30)]).astype(np.float32)
    if not names:
        return grid, {}
    session = open_session(bundle.runtime_graph("head"), PROVIDERS["cpu"], 1)
    return grid, dict(zip(names, run(session, names, grid), strict=True))
