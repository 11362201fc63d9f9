"""The policy: what to do with flagged inputs and with inputs that cannot be tested."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from mmguard.detection.screen import DEFAULT_SHARE
from mmguard.errors import OptionError

Mode = Literal["enforce", "shadow"]
OnFlag = Literal["correct", "abstain", "original"]
OnError = Literal["raise", "open", "closed"]


@dataclass(frozen=True)
class Policy:
    """The guard's policy. Its options are checked once, at construction.

    Attributes:
        mode: `enforce` applies `on_flag`; `shadow` always returns the original network's answer, but still tests and
            counts every input.
        on_flag: `correct` returns the clipped network's best class, but never the original network's decision if
            clipping reduced the margin of that decision by more than expected for a clean input; `abstain` returns no
            answer (label -1, a row of NaN); `original` returns the original network's answer, as if the input were not
            flagged.
        on_error: what to do with inputs that cannot be tested, because they are not finite or because the clipped
            network fails or is late: `raise` raises an error; `open` returns the original network's answer; `closed`
            returns no answer. With `open` and `closed`, the other inputs of the batch are still tested. Shadow mode
            always uses `open`. If the original network itself fails, the guard always raises an error.
        min_confidence: the corrected label of a flagged input is only returned if the clipped network is at least this
            sure of it (`Decision.confidences`); otherwise the guard returns no answer. With 0, every corrected label is
            returned.
        timeout: seconds that the guard waits for the clipped network after the original network has finished; None
            waits forever. The guard waits longer if the networks are slow: a batch is late only after the clipped
            network has also run on it for 3 times the current usual time plus this timeout.
        screen: share of clean inputs on which the clipped network may run, in [0, 1]. Inputs whose activations and
            margins under the original network are usual for clean inputs pass without it
            (`mmguard.detection.screen`). If a level of the test is larger, it takes the place of this share. With 0
            or 1, the clipped network runs on every input.

    Raises:
        OptionError: an option has an invalid value.

    Example:
        >>> Policy(on_flag="abstain").abstains
        True
        >>> Policy(mode="shadow", on_error="closed").when_untested
        'open'
    """

    mode: Mode = "enforce"
    on_flag: OnFlag = "correct"
    on_error: OnError = "raise"
    timeout: float | None = None
    min_confidence: float = 0.0
    screen: float = DEFAULT_SHARE

    def __post_init__(self) -> None:
        for field, choices in zip(fields(self), (Mode, OnFlag, OnError), strict=False):
            value = getattr(self, field.name)
            if value not in get_args(choices):
                raise OptionError(f"{field.name} must be one of {', '.join(get_args(choices))}, got {value!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise OptionError(f"timeout must be a positive number of seconds or None, got {self.timeout!r}")
        if not isinstance(self.min_confidence, int | float) or not 0 <= self.min_confidence <= 1:
            raise OptionError(f"min_confidence must be a number from 0 to 1, got {self.min_confidence!r}")
        if not isinstance(self.screen, int | float) or not 0 <= self.screen <= 1:
            raise OptionError(f"screen must be a number from 0 to 1, got {self.screen!r}")

    @property
    def corrects(self) -> bool:
        """Whether flagged inputs get the corrected label."""
        return self.mode == "enforce" and self.on_flag == "correct"

    @property
    def abstains(self) -> bool:
        """Whether flagged inputs get no label."""
        return self.mode == "enforce" and self.on_flag == "abstain"

    @property
    def when_untested(self) -> OnError:
        """What to do with inputs that cannot be tested: `on_error`, or `open` in shadow mode."""
        return "open" if self.mode == "shadow" else self.on_error
