"""Determine how many inputs can pass through a network at once without using too much memory."""

import torch
from torch import Tensor

from mmguard.calibrate.graph.batches import padded_batches
from mmguard.calibrate.graph.differentiable import DifferentiableGraph

NUMBERS = 2**29
"""Maximum count of numbers that one pass stores: 2 GiB in float32. Gradients need another 2 GiB."""


def inputs_per_pass(graph: DifferentiableGraph, x: Tensor, most: int) -> int:
    """Return how many inputs can pass through the network at once without storing more than `NUMBERS` numbers.

    Args:
        graph: the network.
        x: (N, ...) inputs; the first input is run to count the numbers that the network stores for it.
        most: upper limit of the result.

    Returns:
        A number from 1 to `most`.
    """
    if graph.batch is None:
        # Taking the difference leaves out values whose size does not depend on the batch size.
        each = _numbers(graph, x[[0, 0]]) - _numbers(graph, x[:1])
    else:
        each = _numbers(graph, next(padded_batches(x[:1], graph.batch))[0]) // graph.batch
    return max(1, min(most, NUMBERS // max(1, each)))


@torch.no_grad()
def _numbers(graph: DifferentiableGraph, x: Tensor) -> int:
    return sum(value.numel() for value in graph.record(x, graph.values).values())
