"""What is typical of each class in the network's last features, so that a search can avoid it.

Class subspace orthogonalisation (Yang, Miller and Kesidis 2025, arXiv 2512.08129) maximises the margin of a class with
inputs that lack the features of the class. On a clean network such inputs hardly exist, because only the features of a
class raise its margin. A backdoor is a second way to a large margin, which remains.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmguard.calibrate.graph.autocast import autocast
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.objective import class_margins

ENOUGH = 10
"""Number of clean inputs that the network must assign to a class before the features of the class are estimated."""
WIDEST = 2**14
"""Maximum number of features per input."""
WEIGHT = 5.0
"""Weight of the penalty on the features of the class. At 1, the penalty equals the margin that the features explain.
It is the larger of two weights that were tried on clean and on backdoored networks (docs/method.md)."""


@dataclass(frozen=True)
class ClassFeatures:
    """The direction in which each class differs from all others in the network's last features.

    Attributes:
        value: ONNX name of the features.
        features: (N, D) features of the clean inputs.
        directions: (K, D) direction of each class. Along it, the mean of the class's inputs exceeds the mean of all
            other inputs by 1. It is 0 for classes with fewer than `ENOUGH` inputs.
        spans: (K,) by how much the margin of a class is larger on the class's inputs than on others, in logits.
        typical: (K,) mean margin of the clean inputs that the network assigns to the class, in logits.
        known: (K,) bool, False for classes with fewer than `ENOUGH` inputs.
    """

    value: str
    features: Tensor
    directions: Tensor
    spans: Tensor
    typical: Tensor
    known: Tensor

    def excess(self, logits: Tensor, features: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """Return the margin, minus a penalty on the features that are typical of the class.

        The penalty is linear: `WEIGHT` times the margin that the change of the features would explain.

        Args:
            logits: (M, K) logits of changed inputs.
            features: (M, ...) features of the changed inputs.
            rows: (M,) int64, the clean inputs from which they were changed.
            classes: (M,) int64, the class that each input is changed towards.

        Returns:
            (M,) in logits, differentiable.
        """
        moved = features.float().flatten(1) - self.features[rows]
        explained = (moved * self.directions[classes]).sum(1).clamp(min=0)
        return class_margins(logits, classes) - WEIGHT * self.spans[classes] * explained


def last_features(graph: DifferentiableGraph, x: Tensor, classes: int) -> str | None:
    """Find the last value before the logits: the input of the last linear layer.

    Args:
        graph: the network.
        x: (N, ...) inputs; the first input is run.
        classes: number of classes K. Values with K numbers per input are logits in some form.

    Returns:
        ONNX name of the value; None if the network is one linear layer, or if the value is too wide.
    """
    with torch.no_grad():
        recorded = graph.record(x[[0, 0, 0]], graph.values)
    widths = {
        name: value[0].numel()
        for name, value in recorded.items()
        if value.is_floating_point() and value.ndim > 1 and len(value) == 3 and value[0].numel() not in (1, classes)
    }
    name = next(reversed(widths), None)
    return name if name is not None and widths[name] <= WIDEST else None


@torch.no_grad()
def run(
    graph: DifferentiableGraph, value: str, x: Tensor, bounds: Mapping[str, Tensor] | None, size: int
) -> tuple[Tensor, Tensor]:
    """Run the network on clean inputs.

    Args:
        graph: the network.
        value: ONNX name of the features.
        x: (N, ...) inputs.
        bounds: bounds by value name; if None, the original network is run.
        size: number of inputs per pass.

    Returns:
        The features (N, D) and the logits (N, K), both float32.
    """
    parts = [graph.record(part, [value, graph.output], bounds) for part in x.split(size)]
    features, logits = (torch.cat([part[name] for part in parts]).float() for name in (value, graph.output))
    return features.flatten(1), logits


def features_and_logits(
    graph: DifferentiableGraph, value: str, x: Tensor, bounds: Mapping[str, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Run the network under autocast, so that the result can be differentiated with respect to the inputs.

    Args:
        graph: the network.
        value: ONNX name of the features.
        x: (N, ...) inputs.
        bounds: bounds by value name; if None, the original network is run.

    Returns:
        The features (N, ...) and the logits (N, K) float32.
    """
    with autocast(x.device):
        recorded = graph.record(x, [value, graph.output], bounds)
    return recorded[value], recorded[graph.output].float()


def class_features(value: str, features: Tensor, logits: Tensor) -> ClassFeatures:
    """Estimate the direction of each class from clean inputs.

    A direction is the difference of means, divided by the variance within classes, which is the direction of Fisher's
    discriminant (1936) with a diagonal covariance.

    Args:
        value: ONNX name of the features.
        features: (N, D) float32 features of the clean inputs.
        logits: (N, K) float32 logits of the clean inputs.

    Returns:
        The directions and margins.
    """
    decisions, classes = logits.argmax(1), logits.shape[1]
    own = torch.nn.functional.one_hot(decisions, classes).to(features.dtype)
    counts, n = own.sum(0), len(features)
    means = own.T @ features / counts.clamp(min=1)[:, None]
    others = (features.sum(0) - own.T @ features) / (n - counts).clamp(min=1)[:, None]
    variances = (features - means[decisions]).var(0)
    scaled = (means - others) / variances.clamp(min=1e-6 * float(variances.mean()) + 1e-12)
    length = ((means - others) * scaled).sum(1, keepdim=True)
    known = (counts >= ENOUGH) & (counts < n) & (length[:, 0] > 0)
    margins = torch.stack([class_margins(logits, torch.full_like(decisions, k)) for k in range(classes)], dim=1)
    typical = (margins * own).sum(0) / counts.clamp(min=1)
    elsewhere = (margins * (1 - own)).sum(0) / (n - counts).clamp(min=1)
    directions = torch.where(known[:, None], scaled / length.clamp(min=1e-12), 0.0)
    return ClassFeatures(value, features, directions, typical - elsewhere, typical, known & (typical > 0))
