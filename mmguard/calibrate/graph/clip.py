"""Compute the minimum of an activation and its bound (paper, Eq. 2) faster and in less memory than `torch.minimum`."""

from typing import Any

import torch
from torch import Tensor


class _Clip(torch.autograd.Function):
    """Stores one byte per number for the backward pass, whereas `torch.minimum` stores the whole activation."""

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
        # With the mask as the first operand, the results have the memory layout of the activation. The gradient of a
        # pooling layer may have a different layout.
        of_x = torch.where(clipped, 0, gradient) if ctx.needs_input_grad[0] else None
        of_bound = (clipped * gradient).sum_to_size(ctx.bound_shape) if ctx.needs_input_grad[1] else None
        return of_x, of_bound


def clip(x: Tensor, bound: Tensor) -> Tensor:
    """Return min(x, bound); the result can be differentiated once.

    If a value in `x` equals its bound, the gradient flows only to `x`, because raising the bound would not change the
    result.

    Args:
        x: (N, ...) activation.
        bound: upper bound, broadcastable against `x` and rounded to the dtype of `x`.

    Returns:
        (N, ...) clipped activation, in the dtype of `x`.

    Example:
        >>> clip(torch.tensor([[1.0, 5.0]]), torch.tensor([2.0, 3.0]))
        tensor([[1., 3.]])
    """
    clipped: Tensor = _Clip.apply(x, bound)  # type: ignore[no-untyped-call]
    return clipped
