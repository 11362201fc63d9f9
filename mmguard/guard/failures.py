"""Which rows of a batch cannot be judged, and why."""

from dataclasses import dataclass

import numpy as np

from mmguard.errors import InferenceError, InputError, LateError, LogitsError, OverloadError
from mmguard.guard.sessions import NetworkOutput
from mmguard.inputs.checks import named, rows_not_finite
from mmguard.types import BoolArray

KINDS = {LateError: "timeout", OverloadError: "overload", InputError: "input"}


@dataclass(frozen=True)
class Failure:
    """What keeps some rows of a batch from being judged.

    Attributes:
        error: what is raised where the policy is to raise; its `rows` are these.
        rows: (N,) bool.
    """

    error: InferenceError | InputError
    rows: BoolArray

    def __post_init__(self) -> None:
        self.error.rows = tuple(np.flatnonzero(self.rows).tolist())

    @property
    def kind(self) -> str:
        """One of `mmguard.guard.metrics.ERROR_KINDS`."""
        return KINDS.get(type(self.error), "inference")


def find_failures(
    original: NetworkOutput, clipped: NetworkOutput | InferenceError, not_finite: BoolArray | None
) -> list[Failure]:
    """Every row that cannot be judged, in one failure each.

    Args:
        clipped: what the clipped network says, or why it says nothing.
        not_finite: (N,) bool, inputs that hold NaN or infinity; None if there are none.
    """
    inputs = np.zeros(len(original.logits), np.bool_) if not_finite is None else not_finite
    if isinstance(clipped, InferenceError):
        found = [Failure(clipped, ~inputs)]
    elif not_finite is None and np.isfinite(original.logits).all() and np.isfinite(clipped.logits).all():
        return []  # as nearly always
    else:
        found = _of_logits(original, clipped, inputs)
    if inputs.any():
        found.append(Failure(InputError(f"inputs: {named(inputs)} NaN or infinite"), inputs))
    return found


def _of_logits(original: NetworkOutput, clipped: NetworkOutput, inputs: BoolArray) -> list[Failure]:
    of = {"original": rows_not_finite(original.logits), "clipped": rows_not_finite(clipped.logits)}
    bad = (of["original"] | of["clipped"]) & ~inputs
    names = " and the ".join(name for name, rows in of.items() if (rows & bad).any())
    message = f"logits of the {names} network: {named(bad)} NaN or infinite"
    kind = LogitsError if of["original"][bad].all() else InferenceError
    return [Failure(kind(message), bad)] if bad.any() else []


def failed(what: str, error: Exception) -> InferenceError:
    """An exception of whatever kind as one of ours."""
    if isinstance(error, InferenceError):
        return error
    failure = InferenceError(f"{what} failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
