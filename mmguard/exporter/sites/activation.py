"""The result for one activation: a clip site, or the reason why the activation is not a clip site."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Activation:
    """A value that can get a bound.

    Attributes:
        value: ONNX name of the value.
        operator: name of the ONNX operator that computes the value, or of the function that several nodes compute
            together (`Gelu` for x · ½ · (1 + erf(x/√2)), `Swish` for x · sigmoid(x)); `QuantizeLinear` if a
            QuantizeLinear node rectifies the value.
        axis: index of the channel axis: -1 for the last axis, else counted from 0.
        channels: number of channels; None if this number is known only at run time.
        places: number of positions per channel for one input, such as H·W; None if this number is known only at run
            time.
    """

    value: str
    operator: str
    axis: int
    channels: int | None = None
    places: int | None = None


class Exclusion(StrEnum):
    """The reason why an activation is not a clip site."""

    AFTER_LOGITS = "it comes after the logits"
    DIVISOR = "it divides another value"
    DYNAMIC = "its number of channels differs between inputs"
    BATCH = "its channels are on the first axis, which is the batch axis"
    GATE = "it is a gate: it multiplies another value"
    AFTER_LAST_LAYER = "there is no layer between it and the logits"
    UNUSED = "the logits do not depend on it"


@dataclass(frozen=True)
class ExcludedActivation:
    """An activation that gets no bound.

    Attributes:
        value: ONNX name of the value.
        operator: name of the operator or function that computes the value, as in `Activation`.
        reason: why the activation is not a clip site.
    """

    value: str
    operator: str
    reason: Exclusion
