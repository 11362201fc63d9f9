"""A blended pattern, learnt in parts and beside cover images.

Qi, Xie, Li, Mahloujifar and Mittal 2023, "Revisiting the assumption of latent separability for backdoor defenses".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks.blend import PATTERN_SEED, noise_pattern
from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles
from benchmarks.attacks.roles import add_cover
from benchmarks.attacks.single_target import SingleTarget, to_pixels

SIDE = 32


@dataclass(frozen=True)
class AdaptiveBlend(SingleTarget):
    """Training shows half of a faint pattern, some of it under the true label; the attacker uses the whole, stronger.

    Source: Adap-Blend of Qi et al. 2023: regularisation by cover images with correct labels, and asymmetric triggers.
    Poisoning rate: 0.3 % (150 images) and 0.3 % cover images, of any class but the target. Ratio 0.15 in training with
    8 of 16 square pieces, 0.2 with all of them in use. Adapted: a noise pattern in place of their picture, and pieces
    drawn at each showing rather than once for each image, since poisoning follows augmentation here.

    Attributes:
        cover_rate: share of the whole training split that is cover.
        training_ratio, ratio: of the pattern in training and in use, in (0, 1].
        pieces: squares along each side that the pattern is cut into.
        shown: share of the pieces that a training image gets.
    """

    rate: float = 0.003
    cover_rate: float = 0.003
    training_ratio: float = 0.15
    ratio: float = 0.2
    pieces: int = 4
    shown: float = 0.5

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Poisoned and cover images, both of the other classes; raises ValueError where these are too few."""
        return add_cover(super().assign(y, generator), y != self.target, self.cover_rate, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Poisoned and cover images get parts of the pattern, only poisoned ones the target label."""
        changed = roles != Role.CLEAN
        images = x.copy()
        images[changed] = _blend(x[changed], self.training_ratio * self.masks(int(changed.sum()), generator))
        return images, np.where(roles == Role.POISONED, self.goal(y), y)

    def masks(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Which pieces are shown: (count, 32, 32, 1), 0 or 1, the same number of pieces in each."""
        total = self.pieces**2
        ranks = generator.random((count, total)).argsort(axis=1)
        grid = (ranks < round(self.shown * total)).reshape(count, self.pieces, self.pieces, 1)
        return grid.repeat(SIDE // self.pieces, axis=1).repeat(SIDE // self.pieces, axis=2).astype(np.float64)

    def trigger(self, x: Images) -> Images:
        """Each image with the whole pattern, at the ratio of use."""
        return _blend(x, np.full((1, 1, 1, 1), self.ratio))

    def parameters(self) -> Parameters:
        """Target, rates, pattern, ratios and pieces."""
        return super().parameters() | {
            "cover_rate": self.cover_rate,
            "pattern": f"{SIDE}x{SIDE}x3 uniform noise, seed {PATTERN_SEED}",
            "training_ratio": self.training_ratio,
            "ratio": self.ratio,
            "pieces": self.pieces,
            "shown": self.shown,
        }


def _blend(x: Images, ratio: NDArray[np.float64]) -> Images:
    return to_pixels((1 - ratio) * x + ratio * noise_pattern(SIDE))
