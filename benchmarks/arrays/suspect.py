"""A network on features or series as a defender sees it: the model file and held-out inputs.

`benchmarks.suspect.Suspect` is the same for images. Its module is not offered here, because no defence of the bench
trains such a network.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.arrays import data
from benchmarks.arrays.attacks import ARRAY_ATTACKS, ArrayAttack
from benchmarks.arrays.data import DATA, Arrays, Inputs
from benchmarks.cifar import calibration_split
from benchmarks.suspect import Logits


@dataclass(frozen=True)
class ArraySuspect:
    """One network of `benchmarks/zoo/arrays/`.

    Attributes:
        path: its ONNX file, with input `input` and output `logits`. It standardises its inputs itself.
        record: the JSON next to it.
    """

    path: Path
    record: dict[str, Any]

    @classmethod
    def load(cls, name: str, folder: Path | None = None) -> "ArraySuspect":
        """Load the network with this name; raise FileNotFoundError if the folder does not have it."""
        path = (folder or data.FOLDER) / f"{name}.onnx"
        return cls(path, json.loads(path.with_suffix(".json").read_text()))

    @cached_property
    def attack(self) -> ArrayAttack:
        """Attack that the network was trained with; for evaluation only."""
        return ARRAY_ATTACKS[self.record["recipe"]["attack"]]()

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        """The network, run by ONNX Runtime on the CPU."""
        return onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])

    def logits(self, x: Inputs) -> Logits:
        """Compute logits (N, K) float32 of inputs (N, ...) float32."""
        logits: Logits = self.session.run(["logits"], {"input": np.ascontiguousarray(x)})[0]
        return logits

    def held_out(self) -> Arrays:
        """Return all clean inputs that the network was not trained on."""
        return DATA[self.record["recipe"]["data"]]("test", None)

    def split(self, per_class: int = 50, seed: int = 0) -> tuple[Arrays, Arrays]:
        """Split the held-out inputs into a calibration set, equally many per class, and the rest to measure on."""
        held = self.held_out()
        return tuple(  # type: ignore[return-value]
            Arrays(held.x[rows], held.y[rows]) for rows in calibration_split(held.y, per_class, seed)
        )
