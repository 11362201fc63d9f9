"""The minimum of an activation and its bounds (paper, Eq. 2), at less time and memory than PyTorch's own."""

from typing import Any

import torch
from torch import Tensor


class _Clip(torch.autograd.Function):
    """Keeps a byte a number for the gradient, where `torch.minimum` keeps the activation itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor) -> Tensor:
        bound = bound.to(x.dtype)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x > bound)
            ctx.bound_shape = bound.shape
        return torch.minimum(x, bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (clipped,) = gradients, ctx.saved_tensors
        # The mask comes first so that results lie in memory as activations do: a pooling's gradient may lie otherwise.
        of_x = torch.where(clipped, 0, gradient) if ctx.needs_input_grad[0] else None
        of_bound = (clipped * gradient).sum_to_size(ctx.bound_shape) if ctx.needs_input_grad[1] else None
        return of_x, of_bound


def clip(x: Tensor, bound: Tensor) -> Tensor:
    """min(x, bound). Where both are equal the gradient goes to `x` alone: raising the bound would change nothing.

    Args:
        x: (N, ...). bound: broadcastable against x, rounded to its dtype.

    Returns:
        (N, ...) of the dtype of x, differentiable once.
    """
    clipped: Tensor = _Clip.apply(x, bound)  # type: ignore[no-untyped-call]
    return clipped
