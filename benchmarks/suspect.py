"""A trained network as a defender meets it: the model file, the form of its inputs, and a few clean images."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.attacks import Attack, load_attack
from benchmarks.cifar import Images, Labels
from benchmarks.evaluate import Exported
from benchmarks.training.networks import NETWORKS

ZOO = Path(__file__).parent / "zoo"
BATCH = 500

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class CleanSet:
    """D: clean images x (n, 32, 32, 3) uint8 with their labels y (n,) int64, as many of each class."""

    x: Images
    y: Labels


@dataclass(frozen=True)
class Suspect:
    """One network of the zoo.

    Attributes:
        path: its ONNX file, which keeps batch normalisation apart, so that a defence can train on.
        record: the JSON beside it. A defence may read how inputs are normalised, and nothing else of it.
    """

    path: Path
    record: dict[str, Any]

    @classmethod
    def load(cls, name: str, folder: Path = ZOO) -> "Suspect":
        """The network of that name; raises FileNotFoundError where the folder has none."""
        return cls(folder / f"{name}.onnx", json.loads((folder / f"{name}.json").read_text()))

    @property
    def name(self) -> str:
        """Name of its files."""
        return self.path.stem

    @cached_property
    def attack(self) -> Attack:
        """What it was trained with; for the judge, not for a defence."""
        recipe = self.record["recipe"]
        return load_attack(recipe["attack"], recipe["target"], recipe["rate"], self.path)

    @cached_property
    def exported(self) -> Exported:
        """The network in ONNX Runtime."""
        mean, deviation = (np.asarray(self.record[key], dtype=np.float32) for key in ("mean", "std"))
        return Exported(self.path, mean, deviation)

    def logits(self, x: Images) -> Logits:
        """(N, 32, 32, 3) uint8 -> (N, K) float32, by ONNX Runtime."""
        return self.exported.logits(x)

    def module(self) -> nn.Module:
        """A copy to look into and to train on: (N, 3, 32, 32) float32 in [0, 1] -> (N, K), in evaluation mode.

        The first layer normalises, the second is the network of `benchmarks.training.networks`.

        Raises:
            RuntimeError: the file holds other weights than that network has.
        """
        graph = onnx.load(self.path).graph
        weights = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
        network = NETWORKS[self.record["recipe"]["network"]](classes)
        wanted = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
        state = {name: torch.tensor(weights[name]) for name in wanted if name in weights}
        missing = network.load_state_dict(state, strict=False).missing_keys
        if absent := [name for name in missing if not name.endswith("num_batches_tracked")]:
            raise RuntimeError(f"{self.path} lacks {absent}; export it by benchmarks.evaluate")
        return nn.Sequential(Normalise(self.record["mean"], self.record["std"]), network).eval()


class Normalise(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (x - mean) / deviation, by channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: list[float], deviation: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        return (x - self.mean) / self.deviation


def to_tensor(x: Images) -> Tensor:
    """(N, 32, 32, 3) uint8 -> (N, 3, 32, 32) float32 in [0, 1], channels last in memory."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def predict(module: nn.Module, x: Images) -> Logits:
    """Logits (N, K) float32 of a module as `Suspect.module` gives it, for images (N, 32, 32, 3) uint8.

    The module is put in evaluation mode, and runs where its weights are.
    """
    module.eval()
    device = next(module.parameters()).device
    parts = [module(to_tensor(x[first : first + BATCH]).to(device)) for first in range(0, len(x), BATCH)]
    logits: Logits = torch.cat(parts).float().cpu().numpy()
    return logits
