"""A checkpoint is gone on from only where everything that decides the bounds is the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmguard.calibrate.checkpoint.fingerprint import differences, fingerprint
from mmguard.settings.presets import DEFAULT

X = np.zeros((4, 2), np.float32)
LABELS = np.zeros(4, np.int64)


def fingerprint_of(folder: Path, **changed: Any) -> dict[str, Any]:
    path = folder / "model.onnx"
    path.write_bytes(changed.pop("content", b"weights"))
    usual: dict[str, Any] = {
        "x": X,
        "labels": LABELS,
        "box": (X[0], X[0] + 1),
        "settings": DEFAULT,
        "seed": 0,
        "device": "cpu",
    }
    return fingerprint([path], **(usual | changed))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"content": b"other"}, "model"),
        ({"x": X + 1}, "clean inputs"),
        ({"labels": LABELS + 1}, "labels"),
        ({"labels": None}, "labels"),
        ({"box": (X[0] - 1, X[0] + 1)}, "input box"),
        ({"box": (X[0], X[0] + 2)}, "input box"),
        ({"settings": replace(DEFAULT, rounds=21)}, "rounds (20, now 21)"),
        ({"seed": 1}, "seed (0, now 1)"),
        ({"device": "cuda"}, "device (cpu, now cuda)"),
    ],
)
def test_what_decides_the_bounds_is_in_it(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    kept = fingerprint_of(tmp_path)
    assert differences(kept, fingerprint_of(tmp_path)) == []
    assert differences(kept, fingerprint_of(tmp_path, **changed)) == [named]
