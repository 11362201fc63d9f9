"""What a calibration ran on: versions, which the manifest holds, and times, which it does not."""

import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mmguard", "torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "pillow")


def versions() -> dict[str, str]:
    """Python and those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def provenance(started: datetime, seconds: float, device: str) -> dict[str, object]:
    """All that may differ between two equal calibrations: start, wall seconds, device and platform."""
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "device": device,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
