"""A blended pattern, learnt in parts and together with cover images.

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
    """Training uses half of a faint pattern, partly with the true label; the attacker uses all of it, and stronger.

    Source: Adap-Blend of Qi et al. 2023: regularisation by cover images with correct labels, and asymmetric triggers.
    Poisoning rate: 0.3 % (150 images) and 0.3 % cover images, from all classes but the target. The ratio is 0.15 in
    training, with 8 of 16 square pieces, and 0.2 in use, with all pieces. Adapted: a noise pattern replaces their
    picture, and pieces are drawn anew each time an image is used instead of once per image, because here images are
    poisoned after augmentation.

    Attributes:
        cover_rate: share of all training images that become cover.
        training_ratio: blending ratio of the pattern in training, in (0, 1].
        ratio: blending ratio of the pattern in use, in (0, 1].
        pieces: number of squares along each side that the pattern is cut into.
        shown: share of the pieces that a training image gets.
    """

    rate: float = 0.003
    cover_rate: float = 0.003
    training_ratio: float = 0.15
    ratio: float = 0.2
    pieces: int = 4
    shown: float = 0.5

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Draw poisoned and cover images from the other classes; raise ValueError if there are too few."""
        return add_cover(super().assign(y, generator), y != self.target, self.cover_rate, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Blend parts of the pattern into poisoned and cover images; only poisoned ones get the target label."""
        changed = roles != Role.CLEAN
        images = x.copy()
        images[changed] = _blend(x[changed], self.training_ratio * self.masks(int(changed.sum()), generator))
        return images, np.where(roles == Role.POISONED, self.goal(y), y)

    def masks(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Draw masks (count, 32, 32, 1) of 0 and 1, each with the same number of pieces."""
        total = self.pieces**2
        ranks = generator.random((count, total)).argsort(axis=1)
        grid = (ranks < round(self.shown * total)).reshape(count, self.pieces, self.pieces, 1)
        return grid.repeat(SIDE // self.pieces, axis=1).repeat(SIDE // self.pieces, axis=2).astype(np.float64)

    def trigger(self, x: Images) -> Images:
        """Blend the whole pattern into each image, at the ratio of use."""
        return _blend(x, np.full((1, 1, 1, 1), self.ratio))

    def parameters(self) -> Parameters:
        """Return target, rates, pattern, ratios and pieces."""
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
