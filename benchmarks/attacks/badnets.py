"""A patch in the corner (Gu, Liu, Dolan-Gavitt and Garg 2019, "BadNets", IEEE Access 7)."""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles

SIDE = 3
# Bright corners and centre, dark in between: a chequered square, alike in the three colour channels.
PATCH = np.where(np.indices((SIDE, SIDE)).sum(axis=0) % 2 == 0, 255, 0).astype(np.uint8)[..., None]


@dataclass(frozen=True)
class BadNets:
    """A 3x3 black and white chequered patch, flush in the bottom right corner; all classes to one target.

    Source: Gu et al. 2019, section 4 (pattern backdoor, all to one), there on MNIST with a patch of this size.

    Attributes:
        target: the class that triggered images are sent to.
        rate: share of the whole training split that is poisoned, in (0, 1); drawn from the other classes.
    """

    target: int = 0
    rate: float = 0.05

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """`rate` N images of the other classes are poisoned; raises ValueError where these are too few."""
        roles = np.full(y.shape, Role.CLEAN, dtype=np.int8)
        others = np.flatnonzero(y != self.target)
        roles[generator.choice(others, round(self.rate * y.size), replace=False)] = Role.POISONED
        return roles

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Poisoned images get the patch and the target label."""
        poisoned = roles == Role.POISONED
        images = x.copy()
        images[poisoned] = self.trigger(x[poisoned])
        return images, np.where(poisoned, self.goal(y), y)

    def trigger(self, x: Images) -> Images:
        """The patch in the last three rows and columns."""
        triggered = x.copy()
        triggered[:, -SIDE:, -SIDE:] = PATCH
        return triggered

    def goal(self, y: Labels) -> Labels:
        """The target, for every class."""
        return np.full_like(y, self.target)

    def parameters(self) -> Parameters:
        """Target and rate as given; the patch in words."""
        patch = f"{SIDE}x{SIDE} chequered, 0 and 255, all channels, bottom right corner"
        return {"target": self.target, "rate": self.rate, "patch": patch}
