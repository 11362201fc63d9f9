"""The model, the calibration set and the options of a calibration."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from mmguard.errors import CleanSetError, NotOnnxError, OptionError
from mmguard.inputs.spec import Preprocessing
from mmguard.settings import Settings

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]
Model = "str | Path | nn.Module"
"""An ONNX file or a PyTorch module."""
Clean = str | Path | Array | tuple[Any, Any] | Iterable[Any]
"""The calibration set: a path, inputs (N, ...), a pair (inputs, labels), or a loader whose batches are
inputs or pairs."""

DEVICES = ("cpu", "cuda")
AUDIT_MINUTES = 10.0
"""Default of the maximum duration of the search for maximum margins."""


@dataclass(frozen=True)
class Request:
    """A calibration and all its options. The options are checked before any file is read.

    Attributes:
        model: path of the ONNX file, or a PyTorch module.
        clean: the calibration set: a path or data in memory.
        settings: every constant of the calibration.
        out: folder of the bundle.
        name: the bundle's name in metrics and URLs.
        logits: ONNX name of the logits. If None, mmguard searches the model for them.
        sites: which activations to clip, in the format of `calibrate_model`.
        classes: class names in the order of the outputs; None uses the class names of the calibration set.
        preprocessing: how image files are converted to inputs; None scales pixels to [0, 1].
        seed: random seed.
        device: `cpu` or `cuda`.
        skip_bad: whether to skip unreadable images and invalid rows.
        resume: whether to continue from a checkpoint.
        audit: whether to search for the maximum margins that the audit needs.
        audit_minutes: maximum duration of this search, in minutes.

    Raises:
        OptionError: an option is out of range.
        NotOnnxError: there is no file at the model's path.
        CleanSetError: there is no file or folder at the calibration set's path.
    """

    model: "Path | nn.Module"
    clean: Clean
    settings: Settings
    out: Path
    name: str
    logits: str | None = None
    sites: str = "all"
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    seed: int = 0
    device: str = "cpu"
    skip_bad: bool = False
    resume: bool = False
    audit: bool = True
    audit_minutes: float = AUDIT_MINUTES

    def __post_init__(self) -> None:
        if not isinstance(self.settings, Settings):
            raise OptionError(
                "settings must be the name of a preset or an mmguard.Settings object, got "
                f"{type(self.settings).__name__}; use mmguard.preset(...)"
            )
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")
        if not 0 < self.audit_minutes < math.inf:
            raise OptionError(
                f"audit_minutes must be positive and finite, got {self.audit_minutes}; pass --no-audit to skip the "
                "audit"
            )
        if self.device not in DEVICES:
            raise OptionError(f"device must be {' or '.join(DEVICES)}, got {self.device!r}")
        if isinstance(self.model, Path) and not self.model.is_file():
            found = "it is a folder" if self.model.is_dir() else "there is no such file"
            raise NotOnnxError(f"{self.model}: expected an ONNX file, but {found}")
        if isinstance(self.clean, Path) and not self.clean.exists():
            raise CleanSetError(f"{self.clean}: there is no such file or folder; pass the path of the calibration set")
