"""What is said of an activation: that a bound goes on it, or why none does."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Activation:
    """A value that a bound goes on.

    Attributes:
        value: its ONNX name.
        operator: what makes it: an ONNX operator, also where several nodes compute together what it does (`Gelu` for
            x · ½ · (1 + erf(x/√2)), `Swish` for x · sigmoid(x)); `QuantizeLinear` where that is what rectifies it.
        axis: of its channels: -1 where that is the last, else counted from 0.
        channels: how many; None where that is known only when it runs.
        places: at how many places of an input each channel is, such as H·W; None as above.
    """

    value: str
    operator: str
    axis: int
    channels: int | None = None
    places: int | None = None


class Reason(StrEnum):
    """Why an activation is no clip site."""

    AFTER = "it comes after the logits"
    DIVIDES = "it divides another value"
    DYNAMIC = "the number of its channels differs between inputs"
    BATCH = "its channels are on the first axis, where a batch is"
    GATE = "it is a gate: it multiplies another value"
    TAIL = "no layer lies between it and the logits"
    UNUSED = "the logits do not depend on it"


@dataclass(frozen=True)
class LeftOut:
    """An activation that no bound goes on.

    Attributes:
        value: its ONNX name. operator: what makes it. reason: why.
    """

    value: str
    operator: str
    reason: Reason
