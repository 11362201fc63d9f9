"""Changes that imitate triggers: a faint perturbation, a pattern on a few pixels, or a warp, shared by many inputs.

Each change has one set of parameters per class. Each step of the search moves the parameters in the direction of the
sign of the margins' gradient.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mmguard.calibrate.audit.pixels import channels_first
from mmguard.calibrate.box import Box
from mmguard.calibrate.margin_ascent import ascend

RADIUS = 4 / 255
"""Maximum absolute value of a perturbation, as a fraction of the width of the input box.

The maximum is so small that, on a clean network, a perturbation can move inputs to few classes, if any.
"""
STEP = 0.25
"""Size of the first step, as a fraction of the largest possible change; the step size decreases to 0 during the
search."""
WARP_SHIFT = 1 / 16
"""Maximum distance by which a warp moves a pixel along each axis, as a fraction of the image's width or height."""
WARP_POINTS = 5
"""Number of control points of a warp along each axis; between control points, shifts are interpolated bicubically."""


class Change(Protocol):
    """A family of changes with parameters (K, ...), one change per class."""

    def start(self, classes: int) -> Tensor:
        """Return the initial parameters.

        Args:
            classes: number of classes K.

        Returns:
            (K, ...) initial parameters.
        """
        ...

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Return changed inputs, differentiable with respect to the parameters.

        Args:
            x: (M, ...) inputs.
            parameters: (M, ...) parameters of the change to each input.

        Returns:
            (M, ...) changed inputs, inside the input box.
        """
        ...

    def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Take one step of gradient ascent, and keep the parameters within their limits.

        Args:
            parameters: (K, ...) current parameters.
            gradient: (K, ...) gradient of the margins with respect to the parameters.
            size: size of the step, as a fraction of `STEP`.

        Returns:
            (K, ...) new parameters.
        """
        ...


@dataclass(frozen=True)
class Perturbation:
    """A perturbation of limited size that is added to each input.

    Attributes:
        example: (1, ...) one input, which determines the shape and device of the parameters.
        box: feasible inputs.
    """

    example: Tensor
    box: Box

    def start(self, classes: int) -> Tensor:
        """Return the initial perturbations, which change nothing.

        Args:
            classes: number of classes K.

        Returns:
            (K, ...) zeros.
        """
        return torch.zeros_like(self.example).expand(classes, *self.example.shape[1:]).clone()

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Add the perturbation and clamp the sum to the box.

        Args:
            x: (M, ...) inputs.
            parameters: (M, ...) perturbation to add to each input.

        Returns:
            (M, ...) changed inputs.
        """
        return self.box.clamp(x + parameters)

    def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Move every value by the same amount in the direction of its gradient, and limit each value to `RADIUS`.

        Args:
            parameters: (K, ...) perturbations.
            gradient: (K, ...) gradient of the margins with respect to the perturbations.
            size: size of the step, as a fraction of `STEP`.

        Returns:
            (K, ...) new perturbations.
        """
        limits = self.box.changes(RADIUS)
        return ascend(parameters, STEP * size * limits.high, gradient.sign(), limits)


@dataclass(frozen=True)
class Cover:
    """A pattern that covers some pixels of each input.

    The pattern has the shape of an input, but only the part of the pattern that is marked in `shown` replaces the
    input.

    Attributes:
        example: (1, ...) one input, which determines the shape and device of the parameters.
        box: feasible inputs.
        shown: (M, ...) bool, broadcastable against inputs; True for the values that the pattern replaces.
    """

    example: Tensor
    box: Box
    shown: Tensor

    def start(self, classes: int) -> Tensor:
        """Return the initial patterns, which are grey: every value is in the middle of its range in the box.

        Args:
            classes: number of classes K.

        Returns:
            (K, ...) patterns.
        """
        middle = (self.box.low + self.box.high).expand_as(self.example) / 2
        return middle.expand(classes, *self.example.shape[1:]).clone()

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Replace the values marked in `shown`, in each input, with the pattern's values.

        Args:
            x: (M, ...) inputs.
            parameters: (M, ...) pattern for each input.

        Returns:
            (M, ...) changed inputs.
        """
        return torch.where(self.shown, parameters, x)

    def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Move every value by the same amount in the direction of its gradient, and keep the patterns inside the box.

        Args:
            parameters: (K, ...) patterns.
            gradient: (K, ...) gradient of the margins with respect to the patterns.
            size: size of the step, as a fraction of `STEP`.

        Returns:
            (K, ...) new patterns.
        """
        return ascend(parameters, STEP * size * self.box.width / 2, gradient.sign(), self.box)


@dataclass(frozen=True)
class Warp:
    """A smooth warp of images.

    The parameters (K, 2, points, points) are the horizontal shift at each control point, in units of half the image's
    width, and the vertical shift, in units of half the image's height.

    Attributes:
        example: (1, ...) one image; the parameters are created on the device of this image.
    """

    example: Tensor

    def start(self, classes: int) -> Tensor:
        """Return the initial shifts, which change nothing.

        Args:
            classes: number of classes K.

        Returns:
            (K, 2, points, points) zeros.
        """
        return torch.zeros(classes, 2, WARP_POINTS, WARP_POINTS, device=self.example.device)

    def apply(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Warp the images; edge pixels are repeated beyond the edges of an image.

        Args:
            x: (M, ...) images, NCHW or NHWC.
            parameters: (M, 2, points, points) shifts for each image.

        Returns:
            (M, ...) warped images.
        """
        images = x if channels_first(x) else x.movedim(-1, 1)
        shifts = F.interpolate(parameters, images.shape[2:], mode="bicubic", align_corners=True).movedim(1, -1)
        own = torch.eye(2, 3, device=x.device)[None].expand(len(x), 2, 3)
        places = F.affine_grid(own, list(images.shape), align_corners=False) + shifts
        warped = F.grid_sample(images, places, padding_mode="border", align_corners=False)
        return warped if channels_first(x) else warped.movedim(1, -1)

    def step(self, parameters: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Move every shift by the same amount in the direction of its gradient, up to the maximum shift.

        Args:
            parameters: (K, 2, points, points) shifts.
            gradient: (K, 2, points, points) gradient of the margins with respect to the shifts.
            size: size of the step, as a fraction of `STEP`.

        Returns:
            (K, 2, points, points) new shifts.
        """
        farthest = 2 * WARP_SHIFT
        return (parameters + STEP * size * farthest * gradient.sign()).clamp(-farthest, farthest)
