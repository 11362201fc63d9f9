"""An elastic warp of the whole image.

Nguyen and Tran 2021, "WaNet: imperceptible warping-based backdoor attack".
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.attacks.hook import TrainingHook
from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles
from benchmarks.attacks.roles import add_cover, draw_poisoned
from benchmarks.attacks.single_target import SingleTarget, to_pixels

SIDE = 32
FIELD_SEED = 2021


@dataclass(frozen=True)
class WaNet(SingleTarget):
    """A fixed smooth warp that moves each pixel by a quarter pixel on average; all classes to one target.

    Source: Nguyen and Tran 2021, with their settings for CIFAR-10: control grid k = 4, strength s = 0.5. Poisoning
    rate: 10 %. Noise mode: twice as many cover images are warped by the field plus noise of up to half a pixel, and
    keep their label. Images of any class are drawn anew in each epoch, as an attacker who runs the training can do.
    Adapted: pixels are rounded to 256 levels, as in an image file; they train on floats.

    Attributes:
        cells: k, points of the control grid along each side.
        strength: s, mean absolute displacement in units of 1 / 32 of [-1, 1] coordinates; half of that in pixels.
        cover_ratio: cover images per poisoned image.
    """

    rate: float = 0.1
    cells: int = 4
    strength: float = 0.5
    cover_ratio: float = 2.0

    def hook(self) -> TrainingHook:
        """Return a hook that redraws the roles in each epoch."""
        return TrainingHook(redraws=True)

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Draw poisoned and cover images of any class."""
        everyone = np.ones(y.shape, dtype=np.bool_)
        roles = draw_poisoned(y, everyone, self.rate, generator)
        return add_cover(roles, everyone, self.rate * self.cover_ratio, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Warp poisoned images and give them the target label; warp cover images with noise and keep their label."""
        poisoned, cover = roles == Role.POISONED, roles == Role.COVER
        noise = torch.from_numpy(generator.uniform(-1, 1, (int(cover.sum()), SIDE, SIDE, 2)).astype(np.float32))
        images = x.copy()
        images[poisoned] = self.trigger(x[poisoned])
        images[cover] = _sample(x[cover], (self.grid() + noise / SIDE).clamp(-1, 1))
        return images, np.where(poisoned, self.goal(y), y)

    def trigger(self, x: Images) -> Images:
        """Warp each image."""
        return _sample(x, self.grid().expand(len(x), -1, -1, -1))

    def grid(self) -> Tensor:
        """Return the source of each pixel: (1, 32, 32, 2) float32, x before y, in [-1, 1] from border to border."""
        control = torch.from_numpy(np.random.default_rng(FIELD_SEED).uniform(-1, 1, (1, 2, self.cells, self.cells)))
        control = self.strength * control / control.abs().mean()
        field = functional.interpolate(control, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
        line = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
        identity = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        return (identity + field.permute(0, 2, 3, 1) / SIDE).clamp(-1, 1).float()

    def parameters(self) -> Parameters:
        """Return target, rates, and everything that defines the field."""
        return super().parameters() | {
            "pattern": f"bicubic warp of cells x cells control points, seed {FIELD_SEED}",
            "cells": self.cells,
            "strength": self.strength,
            "cover_ratio": self.cover_ratio,
        }


def _sample(x: Images, grid: Tensor) -> Images:
    """Sample images (N, 32, 32, 3) bilinearly at positions (N, 32, 32, 2)."""
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2).float()
    warped = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return to_pixels(warped.permute(0, 2, 3, 1).numpy())
