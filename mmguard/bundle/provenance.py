"""Collect the package versions for the manifest, and the time and hardware of a calibration for `provenance.json`."""

import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mmguard", "torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect a calibration, by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def provenance(started: datetime, seconds: float, device: str) -> dict[str, object]:
    """Collect the data that may differ between two otherwise identical calibrations.

    Args:
        started: when the calibration began.
        seconds: wall-clock time that the calibration took, in seconds.
        device: torch device on which the calibration ran.

    Returns:
        The content of `provenance.json`: `started`, `seconds`, `device`, `platform` and `machine`.
    """
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "device": device,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
