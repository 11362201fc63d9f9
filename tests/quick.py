"""Calibration in a tenth of a second: few maximisers, few rounds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmguard import calibrate_model
from mmguard.calibrate.audit import plan
from mmguard.settings import Settings
from mmguard.settings.presets import MMOM_WEIGHT
from tests.networks import write_clean

QUICK = Settings(rounds=3, maximisers=8, first_steps=10, learning_rate=0.05, margin_weight=1.0)
QUICK_MMOM = replace(QUICK, objective="mmom", margin_weight=MMOM_WEIGHT)
ADJUSTABLE = ("theta", "rounds", "budget", "margin_weight", "null")


def calibrate(folder: Path, model: Path, clean: Path | None = None, settings: Settings = QUICK, **options: Any) -> Path:
    """Calibrate on the tiny network's clean inputs, or on others, into `folder/out.mmguard`.

    Args:
        folder: of the bundle.
        model: ONNX file.
        clean: the calibration set; None writes that of the tiny network.
        settings: those of the calibration, adjusted by `options` as `Settings.adjusted` does.
        options: `calibrate_model`'s own, and what `Settings.adjusted` takes.
    """
    clean = clean or write_clean(folder / "clean.npz")
    settings = settings.adjusted(**{name: options.pop(name, None) for name in ADJUSTABLE})
    with pytest.MonkeyPatch.context() as patch:
        for steps in ("ALONE_STEPS", "APART_STEPS", "SHARED_STEPS", "PLACING_STEPS"):
            patch.setattr(plan, steps, 10)
        options.setdefault("out", folder / "out.mmguard")
        return calibrate_model(model, clean, settings=settings, **options)


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
