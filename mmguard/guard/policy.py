"""What to do with a flag, and what to do when the test cannot run."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from mmguard.errors import OptionError

Mode = Literal["enforce", "shadow"]
OnFlag = Literal["correct", "abstain", "original"]
OnError = Literal["raise", "open", "closed"]


@dataclass(frozen=True)
class Policy:
    """The guard's policy; checked once, at construction.

    Attributes:
        mode: `enforce` answers by `on_flag`; `shadow` answers as the original does, and counts what it would flag.
        on_flag: `correct` answers the clipped network's best class, other than the original's where that lost more
            confidence than is expected of a clean input; `abstain` answers nothing (label -1, a row of NaN); `original`
            answers as if unflagged.
        on_error: what becomes of inputs that cannot be tested, being not finite, or because the clipped network fails
            or is late: `raise`, `open` (answer as the original) or `closed` (abstain). The other inputs of their batch
            are judged. In shadow mode it is always `open`. Where the original itself fails, the guard raises.
        timeout: seconds that the guard waits for the clipped network after the original is done; None waits on. Under
            load it waits longer: until that network has run this long and some times what batches take just now.

    Raises:
        OptionError: an option is not one of these values.
    """

    mode: Mode = "enforce"
    on_flag: OnFlag = "correct"
    on_error: OnError = "raise"
    timeout: float | None = None

    def __post_init__(self) -> None:
        for field, choices in zip(fields(self), (Mode, OnFlag, OnError), strict=False):
            value = getattr(self, field.name)
            if value not in get_args(choices):
                raise OptionError(f"{field.name} must be one of {', '.join(get_args(choices))}, got {value!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise OptionError(f"timeout must be positive seconds or None, got {self.timeout!r}")

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
        """What happens to inputs that the clipped network could not judge."""
        return "open" if self.mode == "shadow" else self.on_error
