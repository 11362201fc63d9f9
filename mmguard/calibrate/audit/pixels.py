"""Find the channel axis of images, and choose the pixels that a pattern covers."""

import torch
from torch import Tensor


def is_image(x: Tensor) -> bool:
    """Return whether inputs have two spatial axes and a channel axis.

    Args:
        x: (N, ...) inputs.

    Returns:
        True if `x` has four axes.
    """
    return x.ndim == 4


def channels_first(x: Tensor) -> bool:
    """Return whether images are NCHW rather than NHWC, assuming that there are at most as many channels as columns.

    Args:
        x: (N, ...) images.

    Returns:
        True for NCHW.

    Example:
        >>> channels_first(torch.zeros(1, 3, 32, 32)), channels_first(torch.zeros(1, 32, 32, 3))
        (True, False)
    """
    return x.shape[1] <= x.shape[-1]


def by_pixel(x: Tensor) -> Tensor:
    """Sum the values of images over the channels; in inputs that are not images, each number counts as a pixel.

    Args:
        x: (N, ...) values with the same shape as the inputs, such as gains.

    Returns:
        (N, ...) sums, with a channel axis of length 1, for images; `x` itself otherwise.

    Example:
        >>> by_pixel(torch.ones(5, 3, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """
    return x.sum(1 if channels_first(x) else -1, keepdim=True) if is_image(x) else x


def largest(gains: Tensor, share: float) -> Tensor:
    """For each class, mark the pixels with the largest gains.

    Args:
        gains: (K, ...) gain of each pixel: the estimated increase in the margin if the pattern covers the pixel.
        share: fraction of the pixels to mark; at least one pixel per class is marked.

    Returns:
        (K, ...) bool, True for marked pixels.

    Example:
        >>> largest(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), 0.5)
        tensor([[False,  True,  True, False]])
    """
    flat = gains.flatten(1)
    chosen = flat.topk(max(1, round(share * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(gains)


def mean_size(gains: Tensor) -> Tensor:
    """Return the mean absolute gain over the pixels, for each class.

    Args:
        gains: (K, ...) gain of each pixel: the estimated increase in the margin if the pattern covers the pixel.

    Returns:
        (K, 1, ...) mean absolute gains, at least 1e-12.

    Example:
        >>> mean_size(torch.tensor([[1.0, -3.0]]))
        tensor([[2.]])
    """
    return gains.abs().mean(tuple(range(1, gains.ndim)), keepdim=True).clamp(min=1e-12)
