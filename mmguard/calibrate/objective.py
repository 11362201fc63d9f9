"""The MMAC objective (paper, Eq. 4), on tensors."""

import torch
from torch import Tensor


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
    """First term: mean squared change of the logits (N, K) on clean inputs."""
    return (clipped - original).square().mean()


def margin_loss(margins: Tensor, hinge: bool) -> Tensor:
    """Second term without λ: mean margin of the maximisers (M,), of the positive ones only if `hinge`."""
    return (margins.relu() if hinge else margins).mean()
