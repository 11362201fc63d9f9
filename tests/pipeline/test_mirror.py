"""Whether a calibration lets the guard look at flagged inputs in the mirror."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmguard.inputs.spec import Preprocessing
from mmguard.pipeline import mirror
from mmguard.pipeline.mirror import mirror_axis
from mmguard.settings.presets import DEFAULT


@dataclass
class Case:
    """Images of which a share keeps its decision in the mirror."""

    layout: str
    keep: float

    def prepared(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A calibration whose network decides 1 for a share of mirror images, and 0 for everything else."""
        x = np.random.default_rng(0).normal(size=(100, 3, 4, 5)).astype(np.float32)
        x = x if self.layout == "NCHW" else np.moveaxis(x, 1, -1)

        def logits_on(graph: Any, images: Any, device: str, most: int) -> Any:
            np.testing.assert_array_equal(images, np.flip(x, {"NCHW": 3, "NHWC": 2}[self.layout]))
            changed = np.arange(100) >= 100 * self.keep
            return np.eye(2, dtype=np.float32)[changed.astype(int)]

        monkeypatch.setattr(mirror, "logits_on", logits_on)
        return SimpleNamespace(
            input=SimpleNamespace(preprocessing=Preprocessing(layout=self.layout)),
            request=SimpleNamespace(device="cpu", settings=DEFAULT),
            graph=None,
            x=x,
            original_logits=np.eye(2, dtype=np.float32)[np.zeros(100, int)],
        )


@pytest.mark.parametrize(
    ("case", "axis"),
    [(Case("NCHW", 0.85), 3), (Case("NHWC", 1.0), 2), (Case("NCHW", 0.84), None), (Case("NHWC", 0.5), None)],
)
def test_images_are_mirrored_along_the_width_where_most_keep_their_decision(
    case: Case, axis: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mirror_axis(case.prepared(monkeypatch)) == axis


def test_inputs_that_are_not_known_to_be_images_are_not_mirrored() -> None:
    prepared: Any = SimpleNamespace(input=SimpleNamespace(preprocessing=None))
    assert mirror_axis(prepared) is None
