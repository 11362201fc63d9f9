"""ONNX Runtime sessions without the optimisations that change results, and the errors that sessions raise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""All of ONNX Runtime's exception types, for use in `except`, because they have no common base class. For example,
`EPFail` is raised if a device fails."""
ORT_NOT_IMPLEMENTED: type[Exception] = onnxruntime_pybind11_state.NotImplemented
"""The exception that ONNX Runtime raises if there is no kernel for a node."""

WRONG_OPTIMISERS = ["Pad_Fusion"]
"""Optimisers that are disabled because they change results.

In ONNX Runtime 1.17 to at least 1.31, `Pad_Fusion` merges a Pad with zeros into the MaxPool that follows the Pad. But a
MaxPool pads with minus infinity, so the result is wrong if all values in a padded window are negative."""
ERRORS_ONLY = 3
"""Lowest severity of the messages that ONNX Runtime logs. At a lower severity, every call would log a warning about
shapes."""


def new_session(
    path: str | Path, options: ort.SessionOptions | None = None, providers: Sequence[Any] = ("CPUExecutionProvider",)
) -> ort.InferenceSession:
    """Open an ONNX file with ONNX Runtime, leaving out the optimisers that change results.

    Args:
        path: ONNX file.
        options: session options; None for the defaults, with only errors logged.
        providers: execution providers, or (provider, options) pairs, in order of preference.

    Returns:
        The session. Errors that ONNX Runtime raises are not caught.
    """
    if options is None:
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
    return ort.InferenceSession(
        str(path), options, providers=list(providers), disabled_optimizers=WRONG_OPTIMISERS.copy()
    )
