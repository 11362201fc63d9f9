"""A trained network as a defender sees it: the model file, how inputs are normalised, and a few clean images."""

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
    """The calibration set: clean images x (n, 32, 32, 3) uint8 with labels y (n,) int64, equally many per class."""

    x: Images
    y: Labels


@dataclass(frozen=True)
class Suspect:
    """One network of the zoo.

    Attributes:
        path: its ONNX file. Batch normalisation is not fused in it, so that a defence can train the network further.
        record: the JSON next to it. A defence may only read from it how inputs are normalised.
    """

    path: Path
    record: dict[str, Any]

    @classmethod
    def load(cls, name: str, folder: Path = ZOO) -> "Suspect":
        """Load the network with this name; raise FileNotFoundError if the folder does not have it."""
        return cls(folder / f"{name}.onnx", json.loads((folder / f"{name}.json").read_text()))

    @property
    def name(self) -> str:
        """Name of the network and of its files."""
        return self.path.stem

    @cached_property
    def attack(self) -> Attack:
        """Attack that the network was trained with; for evaluation only, a defence must not use it."""
        recipe = self.record["recipe"]
        return load_attack(recipe["attack"], recipe["target"], recipe["rate"], self.path)

    @cached_property
    def exported(self) -> Exported:
        """The network, run by ONNX Runtime."""
        mean, deviation = (np.asarray(self.record[key], dtype=np.float32) for key in ("mean", "std"))
        return Exported(self.path, mean, deviation)

    def logits(self, x: Images) -> Logits:
        """Compute logits (N, K) float32 of images (N, 32, 32, 3) uint8 with ONNX Runtime."""
        return self.exported.logits(x)

    def module(self) -> nn.Module:
        """Return a PyTorch copy that can be inspected and trained: (N, 3, 32, 32) float32 in [0, 1] -> (N, K).

        The first layer normalises, the second is the network of `benchmarks.training.networks`. The copy is in
        evaluation mode.

        Raises:
            RuntimeError: the file lacks weights of that network.
        """
        graph = onnx.load(self.path).graph
        weights = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
        network = NETWORKS[self.record["recipe"]["network"]](classes)
        wanted = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
        state = {name: torch.tensor(weights[name]) for name in wanted if name in weights}
        missing = network.load_state_dict(state, strict=False).missing_keys
        if absent := [name for name in missing if not name.endswith("num_batches_tracked")]:
            raise RuntimeError(f"{self.path} lacks {absent}; export the network with benchmarks.evaluate")
        return nn.Sequential(Normalise(self.record["mean"], self.record["std"]), network).eval()


class Normalise(nn.Module):
    """Normalise images (N, 3, H, W) in [0, 1] per channel: (x - mean) / deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: list[float], deviation: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised images of the same shape."""
        return (x - self.mean) / self.deviation


def to_tensor(x: Images) -> Tensor:
    """Convert images (N, 32, 32, 3) uint8 to (N, 3, 32, 32) float32 in [0, 1], channels last in memory."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def predict(module: nn.Module, x: Images) -> Logits:
    """Compute logits (N, K) float32 of images (N, 32, 32, 3) uint8 with a module like that of `Suspect.module`.

    The module is set to evaluation mode and runs on the device of its weights.
    """
    module.eval()
    device = next(module.parameters()).device
    parts = [module(to_tensor(x[first : first + BATCH]).to(device)) for first in range(0, len(x), BATCH)]
    logits: Logits = torch.cat(parts).float().cpu().numpy()
    return logits
