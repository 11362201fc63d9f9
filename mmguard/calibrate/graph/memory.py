"""How many inputs go through a network at once, so that memory is bounded."""

import torch
from torch import Tensor

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.fixed_batch import parts

NUMBERS = 2**29
"""That the values of one pass may hold together: 2 GiB in float32. Their gradients take as much again."""


def inputs_per_pass(graph: DifferentiableGraph, x: Tensor, most: int) -> int:
    """The inputs that one pass takes: `most`, or as many as hold `NUMBERS` numbers, but one at least.

    Args:
        graph: the network. x: (N, ...), of which the first is tried.
    """
    if graph.batch is None:
        each = _numbers(graph, x[[0, 0]]) - _numbers(graph, x[:1])  # what does not grow with the batch is no input's
    else:
        each = _numbers(graph, next(parts(x[:1], graph.batch))[0]) // graph.batch
    return max(1, min(most, NUMBERS // max(1, each)))


@torch.no_grad()
def _numbers(graph: DifferentiableGraph, x: Tensor) -> int:
    return sum(value.numel() for value in graph.record(x, graph.values).values())
