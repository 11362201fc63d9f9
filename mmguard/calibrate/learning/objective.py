"""The terms of the objectives: MMAC (paper, Eq. 4), MMOM (Eq. 5), MM-BM (Wang et al. 2022) and preset `default`."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ROOT_FLOOR = 1e-3
"""Constant added to a bound's height before taking the square root, because the slope of the square root at 0 is
infinite."""


def class_margins(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the margin of a given class for each input: the logit of the class minus the largest other logit.

    Args:
        logits: (M, K) logits.
        classes: (M,) int64, the class of each input.

    Returns:
        (M,) margins, differentiable; the larger the margin, the more confident the network is of the class.

    Example:
        >>> class_margins(torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 2]))
        tensor([ 2., -3.])
    """
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return own[:, 0] - others.amax(dim=1)


def fit_loss(clipped: Tensor, original: Tensor) -> Tensor:
    """Return the mean squared change of the logits on clean inputs: the first term of MMAC (Eq. 4) and MM-BM.

    Args:
        clipped: (N, K) logits of the clipped network.
        original: (N, K) logits of the original network.

    Returns:
        Scalar tensor, differentiable.

    Example:
        >>> fit_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
        tensor(2.)
    """
    return (clipped - original).square().mean()


def label_loss(clipped: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy on clean inputs: the first term of MMOM (Eq. 5).

    Args:
        clipped: (N, K) logits of the clipped network.
        labels: (N,) int64, labels of the inputs.

    Returns:
        Scalar tensor, differentiable.
    """
    return nn.functional.cross_entropy(clipped, labels)


def margin_loss(margins: Tensor, hinge: bool) -> Tensor:
    """Return the mean margin of the maximisers: the second term of MMAC and MMOM (Eq. 4 and 5), without the factor λ.

    Args:
        margins: (M,) margins of the maximisers.
        hinge: whether negative margins count as 0.

    Returns:
        Scalar tensor, differentiable.

    Example:
        >>> margin_loss(torch.tensor([4.0, -2.0]), hinge=True)
        tensor(2.)
    """
    return (margins.relu() if hinge else margins).mean()


def bound_height(positions: Iterable[Tensor]) -> Tensor:
    """Return the penalty of preset `default`: the mean square root of the bounds' heights, averaged over clip sites.

    The height of a bound is its position within the channel's range over D, as a fraction of the range. Because of the
    square root, the penalty lowers low bounds at least as strongly as high ones, so channels that clean inputs hardly
    need are shut off.

    Args:
        positions: heights of the bounds, one tensor per clip site.

    Returns:
        Scalar tensor, differentiable, without the factor λ.
    """
    return torch.stack([(position + ROOT_FLOOR).sqrt().mean() for position in positions]).mean()


def bound_norm(bounds: Iterable[Tensor]) -> Tensor:
    """Return the sum over clip sites of the l2 norm of the bounds: the second term of MM-BM, without the factor λ.

    Args:
        bounds: bounds, one tensor per clip site.

    Returns:
        Scalar tensor, differentiable.

    Example:
        >>> bound_norm([torch.tensor([3.0, 4.0]), torch.tensor([1.0])])
        tensor(6.)
    """
    return torch.stack([bound.norm() for bound in bounds]).sum()
