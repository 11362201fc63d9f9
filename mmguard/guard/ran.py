"""What the networks returned for a batch."""

from dataclasses import dataclass

from mmguard.errors import InferenceError
from mmguard.guard.sessions import NetworkOutput
from mmguard.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Screened:
    """What the screen says of a batch.

    Attributes:
        decisions: (N,) int64, the original network's decisions.
        p_values: (N,) float64, the p-values of the screen; NaN where it could not read an input.
        held_back: (N,) bool, the inputs that did not pass.
        seconds: how long the screen took.
    """

    decisions: IntArray
    p_values: FloatArray
    held_back: BoolArray
    seconds: float


@dataclass(frozen=True)
class Ran:
    """The outputs of both networks for a batch.

    Attributes:
        original: the original network's output.
        clipped: the clipped network's output, or an error that explains why there is none; None if it did not have to
            run on any input. In rows on which it did not run, its logits are those of the original network.
        screened: what the screen says; None if the clipped network ran on every input.
    """

    original: NetworkOutput
    clipped: NetworkOutput | InferenceError | None
    screened: Screened | None = None
