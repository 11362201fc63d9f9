"""The terms of the objectives, on tensors: MMAC (paper, Eq. 4), MMOM (Eq. 5), MM-BM (Wang et al. 2022) and ours."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ROOT_FLOOR = 1e-3
"""Added to a height before the root, whose slope at 0 is infinite."""


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


def bound_height(positions: Iterable[Tensor]) -> Tensor:
    """Penalty of `default` without λ: mean over activations of the mean square root of their bounds' height, ().

    A height is a bound's share of its channel's range over D. The root presses on low bounds as on high ones, so that
    channels which clean inputs hardly need are closed.
    """
    return torch.stack([(position + ROOT_FLOOR).sqrt().mean() for position in positions]).mean()


def bound_norm(bounds: Iterable[Tensor]) -> Tensor:
    """Second term of MM-BM without λ: sum over activations of the l2 norm of their bounds, ()."""
    return torch.stack([bound.norm() for bound in bounds]).sum()
