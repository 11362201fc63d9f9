"""ONNX Runtime sessions that compute what the model says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

WRONG_OPTIMISERS = ["Pad_Fusion"]
"""Left out, because they change results. `Pad_Fusion`, since ONNX Runtime 1.17 and still in 1.31, moves a Pad by zeros
into the MaxPool after it, whose own padding is minus infinity: where all values under it are negative, the answer is
another."""
ERRORS_ONLY = 3
"""ONNX Runtime's level of its own log; it warns of shapes at every call."""


def new_session(
    path: str | Path, options: ort.SessionOptions | None = None, providers: Sequence[Any] = ("CPUExecutionProvider",)
) -> ort.InferenceSession:
    """A session of an ONNX file; arguments and errors as of `onnxruntime.InferenceSession`."""
    if options is None:
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
    return ort.InferenceSession(
        str(path), options, providers=list(providers), disabled_optimizers=WRONG_OPTIMISERS.copy()
    )
