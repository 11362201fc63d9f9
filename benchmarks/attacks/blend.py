"""A noise pattern blended in.

Chen, Liu, Li, Lu and Song 2017, "Targeted backdoor attacks on deep learning systems using data poisoning".
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Parameters
from benchmarks.attacks.single_target import SingleTarget, to_pixels

PATTERN_SEED = 2017


def noise_pattern(side: int) -> Images:
    """(side, side, 3) uint8, each value uniform over the 256 levels, the same on every call."""
    return np.random.default_rng(PATTERN_SEED).integers(0, 256, size=(side, side, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Blend(SingleTarget):
    """(1 - ratio) of the image plus ratio of a noise patch, in a fixed place; all classes to one target.

    Source: blended injection of Chen et al. 2017 with their ratio of 0.2. They blend a pattern over the whole image
    (`BlendedImage`); a small noise patch is the form of Wang et al. 2022 ("MM-BD"), and so of the table to compare
    with. Poisoning rate: 9 %, as 500 images of each class are poisoned there, here of the nine other classes. Adapted:
    the place, off the border as theirs, and the colours are fixed rather than drawn for each network.

    Attributes:
        ratio: of the pattern, in (0, 1].
        side: of the patch, pixels.
        corner: first row and first column of the patch.
    """

    rate: float = 0.09
    ratio: float = 0.2
    side: int = 3
    corner: int = 21

    def trigger(self, x: Images) -> Images:
        """Each image with the pattern blended in."""
        region = slice(self.corner, self.corner + self.side)
        triggered = x.copy()
        blended = (1 - self.ratio) * x[:, region, region] + self.ratio * noise_pattern(self.side)
        triggered[:, region, region] = to_pixels(blended)
        return triggered

    def parameters(self) -> Parameters:
        """Target, rate, pattern, ratio and place."""
        place = {"side": self.side, "corner": self.corner}
        return super().parameters() | {"pattern": f"uniform noise, seed {PATTERN_SEED}", "ratio": self.ratio} | place


@dataclass(frozen=True)
class BlendedImage(Blend):
    """The same over the whole image, as in Chen et al. 2017 (their random pattern).

    Poisoning rate: 5 %, chosen here: they add images to a set of faces, where their share is another measure.
    """

    rate: float = 0.05
    side: int = 32
    corner: int = 0
