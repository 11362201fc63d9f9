"""Calibration in a tenth of a second: few maximisers, few rounds."""

from pathlib import Path
from typing import Any

import pytest

from mmguard import calibrate_model
from mmguard.calibrate.audit import search as audit_search
from mmguard.settings.presets import PRESETS
from mmguard.settings.settings import Settings
from tests.networks import write_clean

QUICK = Settings(rounds=3, maximisers=8, first_steps=10, learning_rate=0.05, margin_weight=1.0)


def calibrate(folder: Path, model: Path, clean: Path | None = None, **options: Any) -> Path:
    """Calibrate on the tiny network's clean inputs, or on others, into `folder/out.mmguard`.

    Args:
        options: `calibrate_model`'s own.
    """
    clean = clean or write_clean(folder / "clean.npz")
    arguments: dict[str, Any] = {"out": folder / "out.mmguard", "preset": "quick", **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", QUICK)
        for steps in ("ALONE_STEPS", "SHARED_STEPS", "PLACING_STEPS"):
            patch.setattr(audit_search, steps, 10)
        return calibrate_model(model, clean, **arguments)


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
