"""Export a trained network to ONNX, and measure the exported file."""

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import nn

from benchmarks.attacks import Attack
from benchmarks.cifar import Images, Labels, normalise

BATCH = 500


def export(network: nn.Module, path: Path, example: torch.Tensor | None = None, name: str = "image") -> None:
    """Write a self-contained float32 ONNX file: input `image` (batch, 3, 32, 32), output `logits` (batch, K).

    For a network of other inputs, pass two of them as the example, and a name for the input.

    Batch norms are not fused, and every weight keeps its PyTorch name, so that the network can be trained further from
    the file (`benchmarks.suspect`). ONNX Runtime fuses them when it loads the file.

    Raises:
        RuntimeError: the exporter returned no program.
    """
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, 32, 32) if example is None else example,),
        input_names=[name],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
        optimize=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    fold_constants(program.model, should_fold=lambda node: False if _transposes_weights(node) else None)
    remove_unused_nodes(program.model)
    # The exporter adds stack traces with local paths to every node.
    ClearMetadataAndDocStringPass()(program.model)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.onnx")
    program.save(partial, external_data=False)
    partial.replace(path)


def _transposes_weights(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and node.inputs[0] is not None and node.inputs[0].is_initializer()


class Exported:
    """An exported network and its normalisation, run by ONNX Runtime on the CPU in float32."""

    def __init__(self, path: Path, mean: NDArray[np.float32], deviation: NDArray[np.float32]) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.mean, self.deviation = mean, deviation

    def logits(self, x: Images) -> NDArray[np.float32]:
        """Compute logits (N, K) float32 of images (N, 32, 32, 3) uint8."""
        batches = (x[start : start + BATCH] for start in range(0, len(x), BATCH))
        return np.concatenate([self.session.run(["logits"], {"image": self.inputs(batch)})[0] for batch in batches])

    def labels(self, x: Images) -> Labels:
        """Return decisions (N,) int64 on images (N, 32, 32, 3) uint8."""
        decisions: Labels = self.logits(x).argmax(axis=1)
        return decisions

    def inputs(self, x: Images) -> NDArray[np.float32]:
        """Convert images to the network's input: (N, 3, 32, 32) float32, normalised."""
        return normalise(x, self.mean, self.deviation)


def per_class_accuracy(decisions: Labels, y: Labels) -> NDArray[np.float64]:
    """Return the accuracy on each class, (K,), from decisions and labels (N,) int64."""
    return np.bincount(y, weights=decisions == y) / np.bincount(y)


def attack_success(network: Exported, attack: Attack, x: Images, y: Labels) -> tuple[float | None, int]:
    """Return the share of triggered images that get the attacker's label (None if there are no such images).

    An image counts if the attacker wants another label than its own. For a single target class, these are the images
    of all other classes, whether or not the network classifies them correctly without the trigger.

    Returns:
        The share, and the number of images.
    """
    goals = attack.goal(y)
    victims = goals != y
    if not victims.any():
        return None, 0
    hits = network.labels(attack.trigger(x[victims])) == goals[victims]
    return float(hits.mean()), int(victims.sum())
