"""Straight-through gradients for rounding, and finite gradients for functions with an infinite derivative."""

from typing import Any

import torch
from torch import Tensor


class _Finite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def finite(x: Tensor) -> Tensor:
    """Return x unchanged, but replace infinite and NaN gradients by 0 in the backward pass.

    With `finite`, the norm of a zero vector has a zero gradient, and the branch that a Where does not select
    contributes nothing to the gradient. Otherwise, that branch could contribute 0 times infinity, which is NaN.

    Args:
        x: tensor of any shape.

    Returns:
        The same values, with a finite gradient.

    Example:
        >>> x = torch.zeros(2, requires_grad=True)
        >>> finite(x).sqrt().sum().backward()
        >>> x.grad
        tensor([0., 0.])
    """
    if not x.requires_grad:
        return x
    result: Tensor = _Finite.apply(x)  # type: ignore[no-untyped-call]
    return result


def rounded(x: Tensor) -> Tensor:
    """Round x to the nearest integer, ties to even, with a straight-through gradient.

    The gradient is that of the identity function (Bengio et al. 2013, arXiv:1308.3432).

    Args:
        x: tensor of any shape.

    Returns:
        The rounded values, in the dtype of x.

    Example:
        >>> rounded(torch.tensor([0.5, 1.5, 1.7]))
        tensor([0., 2., 2.])
    """
    if not x.requires_grad:
        return torch.round(x)
    result: Tensor = _Rounded.apply(x)  # type: ignore[no-untyped-call]
    return result
