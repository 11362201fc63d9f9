"""Gradient ascent on class margins (paper, Eq. 6), used to learn the bounds and to run the audit."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mmguard.calibrate.box import Box
from mmguard.calibrate.graph.autocast import autocast
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.learning.objective import class_margins

OnInputs = Callable[[float], None]
"""Function to call with the number of inputs that just passed forward and backward through a network."""


def margin_gradients(
    graph: DifferentiableGraph,
    bounds: Mapping[str, Tensor] | None,
    x: Tensor,
    classes: Tensor,
    size: int,
    on_inputs: OnInputs = lambda _: None,
) -> Tensor:
    """Return the gradient of each input's margin with respect to the input.

    The network runs under autocast, because the ascent does not need the exact value of the gradient.

    Args:
        graph: the network.
        bounds: bounds by value name; if None, the original network is searched.
        x: (M, ...) inputs.
        classes: (M,) int64, for each input, the class whose margin is differentiated.
        size: number of inputs per pass, which limits memory use.
        on_inputs: called with the number of inputs in each pass.

    Returns:
        (M, ...) gradients.
    """
    gradients = []
    for part, part_classes in zip(x.split(size), classes.split(size), strict=True):
        part = part.detach().requires_grad_()
        margins = class_margins(autocast_logits(graph, bounds, part), part_classes)
        gradients.append(torch.autograd.grad(margins.sum(), part)[0])
        on_inputs(len(part))
    return torch.cat(gradients)


def autocast_logits(graph: DifferentiableGraph, bounds: Mapping[str, Tensor] | None, x: Tensor) -> Tensor:
    """Return differentiable logits that are computed under autocast.

    Args:
        graph: the network.
        bounds: bounds by value name; if None, the original network is run.
        x: (N, ...) inputs.

    Returns:
        (N, K) float32 logits.
    """
    with autocast(x.device):
        logits: Tensor = graph(x, bounds)
    return logits.float()


def ascend(x: Tensor, size: Tensor, direction: Tensor, limits: Box) -> Tensor:
    """Take one step of gradient ascent, and clamp the result to a box.

    Args:
        x: (M, ...) inputs, or changes to inputs.
        size: step size, broadcastable against `x`.
        direction: (M, ...) the gradient, or the sign of the gradient.
        limits: box that the result is clamped to.

    Returns:
        (M, ...) new inputs, or new changes to inputs.
    """
    return limits.clamp(x + size * direction)
