"""Describe the hardware and versions of a measurement, for the JSON that every benchmark writes."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy")


def environment(distributions: Sequence[str] = DISTRIBUTIONS) -> dict[str, object]:
    """Return date, hardware and versions, ready for JSON, without names of the host, its user or its folders.

    Args:
        distributions: names of distributions whose versions are of interest.

    Returns:
        A dictionary with these keys.
        date: today in UTC, in ISO 8601.
        hardware: cpu (model name), cores (that this process may use), memory_gib, machine (architecture) and system;
            if PyTorch is installed, also threads (that it uses) and gpu (if there is one).
        versions: python, and each of `distributions` that is installed.
    """
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": _hardware(),
        "versions": {"python": platform.python_version()} | _versions(distributions),
    }


def _hardware() -> dict[str, object]:
    hardware: dict[str, object] = {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "memory_gib": _memory_gib(),
        "machine": platform.machine(),
        "system": platform.system(),
    }
    return hardware | _as_torch_sees_it()


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _as_torch_sees_it() -> dict[str, object]:
    try:
        import torch
    except ImportError:
        return {}
    threads: dict[str, object] = {"threads": torch.get_num_threads()}
    return threads | ({"gpu": torch.cuda.get_device_name(0)} if torch.cuda.is_available() else {})


def _versions(distributions: Sequence[str]) -> dict[str, str]:
    installed = {}
    for name in distributions:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
