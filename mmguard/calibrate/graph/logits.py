"""Compute the logits of many inputs batch by batch, without gradients."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.memory import inputs_per_pass

Array = npt.NDArray[np.float32]


def logits_on(graph: DifferentiableGraph, x: Array, device: str, most: int) -> Array:
    """Return the logits of the original network.

    Args:
        graph: the network, which is moved to `device`.
        x: (N, ...) float32 inputs.
        device: torch device, such as `cpu` or `cuda`.
        most: maximum number of inputs per pass. The last digits of the logits may depend on this number, so pass the
            result of `mmguard.calibrate.learning.descent.largest_pass` to get the same logits as the calibrator.

    Returns:
        (N, K) float32 logits.
    """
    inputs = torch.from_numpy(np.ascontiguousarray(x)).to(device)
    graph = graph.to(device)
    return batched_logits(graph, inputs, None, inputs_per_pass(graph, inputs, most)).cpu().numpy()


@torch.no_grad()
def batched_logits(graph: DifferentiableGraph, x: Tensor, bounds: Mapping[str, Tensor] | None, size: int) -> Tensor:
    """Compute logits without gradients.

    Args:
        graph: the network.
        x: (N, ...) inputs, on the device of the network.
        bounds: bounds by value name; if None, the original network is run.
        size: number of inputs per pass.

    Returns:
        (N, K) logits, on the device of `x`.
    """
    return torch.cat([graph(part, bounds) for part in x.split(size)])
