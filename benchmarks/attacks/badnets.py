"""A patch in the corner (Gu, Liu, Dolan-Gavitt and Garg 2019, "BadNets", IEEE Access 7)."""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Labels, Parameters, Roles
from benchmarks.attacks.roles import draw_poisoned
from benchmarks.attacks.single_target import SingleTarget

SIDE = 3
# A chequered square with bright corners and centre, the same in all three colour channels.
PATCH = np.where(np.indices((SIDE, SIDE)).sum(axis=0) % 2 == 0, 255, 0).astype(np.uint8)[..., None]
PATCH_DESCRIPTION = f"{SIDE}x{SIDE} chequered, 0 and 255, all channels, bottom right corner"


def stamp(x: Images) -> Images:
    """Stamp the patch on the last three rows and columns of a copy."""
    stamped = x.copy()
    stamped[:, -SIDE:, -SIDE:] = PATCH
    return stamped


@dataclass(frozen=True)
class BadNets(SingleTarget):
    """A 3x3 black-and-white chequered patch in the bottom right corner; all classes to one target.

    Source: Gu et al. 2019, section 4 (pattern backdoor, all to one), who use a patch of this size on MNIST. Poisoning
    rate: 5 %, our choice; on MNIST they poison 10 %.
    """

    def trigger(self, x: Images) -> Images:
        """Stamp the patch on the last three rows and columns."""
        return stamp(x)

    def parameters(self) -> Parameters:
        """Return target and rate, and a description of the patch."""
        return super().parameters() | {"patch": PATCH_DESCRIPTION}


@dataclass(frozen=True)
class BadNetsAllToAll(BadNets):
    """The patch of `BadNets`, which sends each class to the next one and the last to the first.

    Source: Gu et al. 2019, section 4 (all to all). Poisoning rate: 10 %, from all classes.

    Attributes:
        target: not used, because every class is a target.
        rate: share of all training images that is poisoned, in (0, 1).
        classes: number of classes of the data set, K.
    """

    rate: float = 0.1
    classes: int = 10

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Draw `rate` N images of any class to poison."""
        return draw_poisoned(y, np.ones(y.shape, dtype=np.bool_), self.rate, generator)

    def goal(self, y: Labels) -> Labels:
        """Return y + 1 modulo K; raise ValueError for a label of K or more."""
        if y.size and y.max() >= self.classes:
            raise ValueError(
                f"expected labels below {self.classes}, got {y.max()}; pass classes= to the all-to-all attack"
            )
        return (y + 1) % self.classes

    def parameters(self) -> Parameters:
        """Return the parameters of `BadNets`, with a rule for the target."""
        return super().parameters() | {"target": "(class + 1) mod classes", "classes": self.classes}
