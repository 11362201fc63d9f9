"""A noise pattern that is blended into the image.

Chen, Liu, Li, Lu and Song 2017, "Targeted backdoor attacks on deep learning systems using data poisoning".
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Parameters
from benchmarks.attacks.single_target import SingleTarget, to_pixels

PATTERN_SEED = 2017


def noise_pattern(side: int) -> Images:
    """Return the fixed noise pattern (side, side, 3) uint8, uniform over the 256 levels."""
    return np.random.default_rng(PATTERN_SEED).integers(0, 256, size=(side, side, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Blend(SingleTarget):
    """A noise patch in a fixed place, (1 - ratio) image + ratio patch; all classes to one target.

    Source: blended injection of Chen et al. 2017 with their ratio of 0.2. They blend a pattern over the whole image
    (`BlendedImage`); the small noise patch is that of Wang et al. 2022 ("MM-BD"), and so of the table that we compare
    with. Poisoning rate: 9 %, because they poison 500 images of each class, here of the nine other classes. Adapted:
    place and colours are fixed instead of drawn for each network; the patch does not touch the border, as in theirs.

    Attributes:
        ratio: blending ratio of the pattern, in (0, 1].
        side: side of the patch in pixels.
        corner: first row and first column of the patch.
    """

    rate: float = 0.09
    ratio: float = 0.2
    side: int = 3
    corner: int = 21

    def trigger(self, x: Images) -> Images:
        """Blend the pattern into each image."""
        region = slice(self.corner, self.corner + self.side)
        triggered = x.copy()
        blended = (1 - self.ratio) * x[:, region, region] + self.ratio * noise_pattern(self.side)
        triggered[:, region, region] = to_pixels(blended)
        return triggered

    def parameters(self) -> Parameters:
        """Return target, rate, pattern, ratio and place."""
        place = {"side": self.side, "corner": self.corner}
        return super().parameters() | {"pattern": f"uniform noise, seed {PATTERN_SEED}", "ratio": self.ratio} | place


@dataclass(frozen=True)
class BlendedImage(Blend):
    """A noise pattern over the whole image, as in Chen et al. 2017 (their random pattern).

    Poisoning rate: 5 %, our choice: they add images to a set of faces, so that their share is not comparable.
    """

    rate: float = 0.05
    side: int = 32
    corner: int = 0
