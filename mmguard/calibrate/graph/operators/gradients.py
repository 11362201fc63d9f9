"""Gradients where calculus leaves them open: at infinite slopes, and through rounding."""

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
    """`x` itself, whose gradient is 0 where what follows gives an infinite one, or none (0 times infinity).

    So the norm of a zero vector has a gradient of zero, and a branch that Where does not take adds nothing.
    """
    if not x.requires_grad:
        return x
    result: Tensor = _Finite.apply(x)  # type: ignore[no-untyped-call]
    return result


def rounded(x: Tensor) -> Tensor:
    """`x` rounded to even; the gradient passes straight through (Bengio et al. 2013, arXiv:1308.3432)."""
    if not x.requires_grad:
        return torch.round(x)
    result: Tensor = _Rounded.apply(x)  # type: ignore[no-untyped-call]
    return result
