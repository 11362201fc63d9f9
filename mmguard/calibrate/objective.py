"""The terms of the objectives, on tensors: MMAC (paper, Eq. 4), MMOM (Eq. 5) and MM-BM (Wang et al. 2022)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def class_margins(logits: Tensor, classes: Tensor) -> Tensor:
    """Logit of a class minus the best other logit.

    Args:
        logits: (M, K). classes: (M,) int64.

    Returns:
        (M,), differentiable.
    """
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return own[:, 0] - others.amax(dim=1)


def fit_loss(clipped: Tensor, original: Tensor) -> Tensor:
    """First term of MMAC and MM-BM: mean squared change of the logits (N, K) on clean inputs."""
    return (clipped - original).square().mean()


def label_loss(clipped: Tensor, labels: Tensor) -> Tensor:
    """First term of MMOM: mean cross-entropy of the clipped network's logits (N, K) with the labels (N,) int64."""
    return nn.functional.cross_entropy(clipped, labels)


def margin_loss(margins: Tensor, hinge: bool) -> Tensor:
    """Second term of MMAC and MMOM without λ: mean margin of maximisers (M,), of the positive ones only if `hinge`."""
    return (margins.relu() if hinge else margins).mean()


def mean_position(positions: Iterable[Tensor]) -> Tensor:
    """Mean over activations of the mean height of their bounds, as a share of each channel's range over D, ()."""
    return torch.stack([position.mean() for position in positions]).mean()


def bound_norm(bounds: Iterable[Tensor]) -> Tensor:
    """Second term of MM-BM without λ: sum over activations of the l2 norm of their bounds, ()."""
    return torch.stack([bound.norm() for bound in bounds]).sum()
