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
    """A smooth, fixed field moves each pixel by a quarter pixel on average; all classes to one target.

    Source: Nguyen and Tran 2021, with their settings for CIFAR-10: control grid k = 4, strength s = 0.5. Poisoning
    rate: 10 %. Noise mode: twice as many cover images, warped by the field and noise up to half a pixel, keep theirs.
    Images of any class are chosen, anew in each epoch, as an attacker does who runs the training. Adapted: pixels are
    rounded to 256 levels, as in an image file, where they train on floats.

    Attributes:
        cells: k, points of the control grid along each side.
        strength: s, mean absolute displacement in units of 1 / 32 of [-1, 1] coordinates, so half of that in pixels.
        cover_ratio: cover images for each poisoned one.
    """

    rate: float = 0.1
    cells: int = 4
    strength: float = 0.5
    cover_ratio: float = 2.0

    def hook(self) -> TrainingHook:
        """Roles are drawn anew in each epoch."""
        return TrainingHook(redraws=True)

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Poisoned and cover images of any class."""
        everyone = np.ones(y.shape, dtype=np.bool_)
        roles = draw_poisoned(y, everyone, self.rate, generator)
        return add_cover(roles, everyone, self.rate * self.cover_ratio, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Poisoned images get the warp and the target label, cover images the noisy warp and their own label."""
        poisoned, cover = roles == Role.POISONED, roles == Role.COVER
        noise = torch.from_numpy(generator.uniform(-1, 1, (int(cover.sum()), SIDE, SIDE, 2)).astype(np.float32))
        images = x.copy()
        images[poisoned] = self.trigger(x[poisoned])
        images[cover] = _sample(x[cover], (self.grid() + noise / SIDE).clamp(-1, 1))
        return images, np.where(poisoned, self.goal(y), y)

    def trigger(self, x: Images) -> Images:
        """Each image warped by the field."""
        return _sample(x, self.grid().expand(len(x), -1, -1, -1))

    def grid(self) -> Tensor:
        """Where each pixel is read from: (1, 32, 32, 2) float32, x before y, in [-1, 1] from border to border."""
        control = torch.from_numpy(np.random.default_rng(FIELD_SEED).uniform(-1, 1, (1, 2, self.cells, self.cells)))
        control = self.strength * control / control.abs().mean()
        field = functional.interpolate(control, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
        line = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
        identity = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        return (identity + field.permute(0, 2, 3, 1) / SIDE).clamp(-1, 1).float()

    def parameters(self) -> Parameters:
        """Target, rates and all that the field is made from."""
        return super().parameters() | {
            "pattern": f"bicubic warp of cells x cells control points, seed {FIELD_SEED}",
            "cells": self.cells,
            "strength": self.strength,
            "cover_ratio": self.cover_ratio,
        }


def _sample(x: Images, grid: Tensor) -> Images:
    """Bilinear reading of images (N, 32, 32, 3) at (N, 32, 32, 2)."""
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2).float()
    warped = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return to_pixels(warped.permute(0, 2, 3, 1).numpy())
