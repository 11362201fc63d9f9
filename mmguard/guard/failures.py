"""Finds the rows of a batch that cannot be judged, and says why."""

from dataclasses import dataclass

import numpy as np

from mmguard.errors import InferenceError, InputError, LateError, LogitsError, OverloadError
from mmguard.guard.ran import Ran
from mmguard.guard.sessions import NetworkOutput
from mmguard.inputs.batch_checks import rows_are, rows_not_finite
from mmguard.types import BoolArray

KINDS: dict[type[Exception], str] = {LateError: "timeout", OverloadError: "overload", InputError: "input"}
"""Kinds of errors that are not of the kind `inference`; all are in `mmguard.guard.metrics.ERROR_KINDS`."""


@dataclass(frozen=True)
class Failure:
    """Why some rows of a batch cannot be judged.

    Attributes:
        error: the error that describes the failure; its attribute `rows` contains the indices of the rows that cannot
            be judged. The error is raised if the policy is to raise an error.
        rows: (N,) bool, the rows that cannot be judged.
    """

    error: InferenceError | InputError
    rows: BoolArray

    def __post_init__(self) -> None:
        self.error.rows = tuple(np.flatnonzero(self.rows).tolist())

    @property
    def kind(self) -> str:
        """The kind of error, one of `mmguard.guard.metrics.ERROR_KINDS`."""
        return KINDS.get(type(self.error), "inference")


def find_failures(ran: Ran, not_finite: BoolArray | None) -> list[Failure]:
    """Find every row that cannot be judged, including rows in which a logit is NaN or infinite.

    Args:
        ran: the outputs of both networks, or an error that explains why there is no output of the clipped network.
        not_finite: (N,) bool, True for inputs that contain NaN or infinity; None if all inputs are finite.

    Returns:
        The failures; each row belongs to at most one of them.
    """
    original, clipped, screened = ran.original, ran.clipped, ran.screened
    inputs = np.zeros(len(original.logits), np.bool_) if not_finite is None else not_finite
    if isinstance(clipped, InferenceError):
        rows = ~inputs if screened is None else screened.held_back & ~inputs
        found = [Failure(clipped, rows)] if rows.any() else []
    elif not_finite is None and _all_finite(original, clipped):
        return []  # the usual case
    else:
        found = _logit_failures(original, clipped, inputs)
    if inputs.any():
        found.append(Failure(InputError(f"inputs: {rows_are(inputs)} NaN or infinite values"), inputs))
    return found


def _all_finite(original: NetworkOutput, clipped: NetworkOutput | None) -> bool:
    read = (original.logits, original.activations, None if clipped is None else clipped.logits)
    return all(values is None or bool(np.isfinite(values).all()) for values in read)


def _logit_failures(original: NetworkOutput, clipped: NetworkOutput | None, inputs: BoolArray) -> list[Failure]:
    of = {"original": rows_not_finite(original.logits)}
    if original.activations is not None:
        of["original"] |= rows_not_finite(original.activations)
    if clipped is not None:
        of["clipped"] = rows_not_finite(clipped.logits)
    bad = np.any(list(of.values()), axis=0) & ~inputs
    names = " and the ".join(name for name, rows in of.items() if (rows & bad).any())
    message = f"logits of the {names} network: {rows_are(bad)} NaN or infinite values"
    kind = LogitsError if of["original"][bad].all() else InferenceError
    return [Failure(kind(message), bad)] if bad.any() else []


def inference_error(what: str, error: Exception) -> InferenceError:
    """Wrap an exception in an InferenceError, unless it already is an InferenceError.

    Args:
        what: what failed; the message begins with these words.
        error: the exception.

    Returns:
        The InferenceError. If it wraps the exception, its `__cause__` is the exception.

    Example:
        >>> inference_error("the test", ValueError("no"))
        InferenceError('the test failed: ValueError: no')
    """
    if isinstance(error, InferenceError):
        return error
    failure = InferenceError(f"{what} failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
