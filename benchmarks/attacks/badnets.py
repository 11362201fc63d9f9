"""A patch in the corner (Gu, Liu, Dolan-Gavitt and Garg 2019, "BadNets", IEEE Access 7)."""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Labels, Parameters, Roles
from benchmarks.attacks.roles import draw_poisoned
from benchmarks.attacks.single_target import SingleTarget

SIDE = 3
# Bright corners and centre, dark in between: a chequered square, alike in the three colour channels.
PATCH = np.where(np.indices((SIDE, SIDE)).sum(axis=0) % 2 == 0, 255, 0).astype(np.uint8)[..., None]
PATCH_IN_WORDS = f"{SIDE}x{SIDE} chequered, 0 and 255, all channels, bottom right corner"


def stamp(x: Images) -> Images:
    """The patch in the last three rows and columns; a new array."""
    stamped = x.copy()
    stamped[:, -SIDE:, -SIDE:] = PATCH
    return stamped


@dataclass(frozen=True)
class BadNets(SingleTarget):
    """A 3x3 black and white chequered patch, flush in the bottom right corner; all classes to one target.

    Source: Gu et al. 2019, section 4 (pattern backdoor, all to one), there on MNIST with a patch of this size.
    Poisoning rate: 5 %, chosen here; on MNIST they poison 10 %.
    """

    def trigger(self, x: Images) -> Images:
        """The patch in the last three rows and columns."""
        return stamp(x)

    def parameters(self) -> Parameters:
        """Target and rate as given; the patch in words."""
        return super().parameters() | {"patch": PATCH_IN_WORDS}


@dataclass(frozen=True)
class BadNetsAllToAll(BadNets):
    """The patch of `BadNets` sends each class to the next one, the last to the first.

    Source: Gu et al. 2019, section 4 (all to all). Poisoning rate: 10 %, of all classes.

    Attributes:
        target: not used; every class is a target.
        rate: share of the whole training split that is poisoned, in (0, 1).
        classes: K of the data set.
    """

    rate: float = 0.1
    classes: int = 10

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """`rate` N images of any class are poisoned."""
        return draw_poisoned(y, np.ones(y.shape, dtype=np.bool_), self.rate, generator)

    def goal(self, y: Labels) -> Labels:
        """y + 1 modulo K; raises ValueError for a label that is not below K."""
        if y.size and y.max() >= self.classes:
            raise ValueError(f"label {y.max()} in an all-to-all attack on {self.classes} classes; give classes=")
        return (y + 1) % self.classes

    def parameters(self) -> Parameters:
        """As `BadNets`; the target is a rule."""
        return super().parameters() | {"target": "(class + 1) mod classes", "classes": self.classes}
