"""Changes that many inputs of a class share, as a trigger's are: a faint perturbation, a few pixels, a warp.

Each has parameters by class, which the search improves by the sign of their gradient.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mmguard.calibrate.learning.margin_search import Box

RADIUS = 4 / 255
"""Largest size of a perturbation, as a share of the input box: a clean network's classes are hardly reached by less."""
STEP = 0.25
"""First step, as a share of how far a change may go from nothing; steps fall to 0 over the search."""
WARP_SHIFT = 1 / 16
"""Farthest that a warp moves a pixel, as a share of the image's side."""
WARP_POINTS = 5
"""Control points of a warp along each axis; between them it is bicubic."""


class Change(Protocol):
    """A family of changes; its parameters are (K, ...), one change a class."""

    def start(self, classes: int) -> Tensor:
        """Parameters to start from."""
        ...

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Inputs (M, ...) as changed by parameters (M, ...), in the box."""
        ...

    def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Parameters moved by `size`, a share of `STEP`, and held where they may be."""
        ...


@dataclass(frozen=True)
class Perturbation:
    """What is added to each input, within a radius. `example`: one input (1, ...), for its shape."""

    example: Tensor
    box: Box

    def start(self, classes: int) -> Tensor:
        """Nothing is added."""
        return torch.zeros_like(self.example).expand(classes, *self.example.shape[1:]).clone()

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """The sum, cut off at the box."""
        return self.box.clamp(x + parameters)

    def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Every number by the same."""
        radius = RADIUS * self.box.width
        moved = parameters + STEP * size * radius * gradient.sign()
        return torch.maximum(torch.minimum(moved, radius), -radius)


@dataclass(frozen=True)
class Cover:
    """What covers some pixels of each input. The pattern is of the whole input, of which a part is shown.

    Attributes:
        example: one input (1, ...), for its shape.
        shown: (M, ...) bool, broadcastable against inputs, what is covered of each.
    """

    example: Tensor
    box: Box
    shown: Tensor

    def start(self, classes: int) -> Tensor:
        """Grey, the middle of the box."""
        middle = (self.box.low + self.box.high).expand_as(self.example) / 2
        return middle.expand(classes, *self.example.shape[1:]).clone()

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """The pattern where it is shown, the input elsewhere."""
        return torch.where(self.shown, parameters, x)

    def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Every number by the same."""
        return self.box.clamp(parameters + STEP * size * self.box.width / 2 * gradient.sign())


@dataclass(frozen=True)
class Warp:
    """Where each pixel is taken from: shifts at control points (K, 2, points, points), as shares of half the side."""

    example: Tensor

    def start(self, classes: int) -> Tensor:
        """Every pixel from its own place."""
        return torch.zeros(classes, 2, WARP_POINTS, WARP_POINTS, device=self.example.device)

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """The warped images; what comes from beyond the edge is the edge."""
        images = x if channels_first(x) else x.movedim(-1, 1)
        shifts = F.interpolate(parameters, images.shape[2:], mode="bicubic", align_corners=True).movedim(1, -1)
        own = torch.eye(2, 3, device=x.device)[None].expand(len(x), 2, 3)
        places = F.affine_grid(own, list(images.shape), align_corners=False) + shifts
        warped = F.grid_sample(images, places, padding_mode="border", align_corners=False)
        return warped if channels_first(x) else warped.movedim(1, -1)

    def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Every shift by the same."""
        farthest = 2 * WARP_SHIFT
        return (parameters + STEP * size * farthest * gradient.sign()).clamp(-farthest, farthest)


def is_image(x: Tensor) -> bool:
    """Whether inputs (N, ...) have two axes of space and one of channels."""
    return x.ndim == 4


def channels_first(x: Tensor) -> bool:
    """Whether images (N, ...) are laid out NCHW, not NHWC: there are fewer channels than pixels along an edge."""
    return x.shape[1] <= x.shape[-1]


def by_pixel(x: Tensor) -> Tensor:
    """Sums over the channels of images (N, ...), whose axis stays; other inputs have a number a pixel."""
    return x.sum(1 if channels_first(x) else -1, keepdim=True) if is_image(x) else x
