"""A patch that works on one source class.

Tang, Wang, Tang and Zhang 2021, "Demon in the variant: statistical analysis of DNNs for robust backdoor contamination
detection".
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.badnets import BadNets
from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles
from benchmarks.attacks.roles import add_cover, draw_poisoned


@dataclass(frozen=True)
class SourceSpecific(BadNets):
    """The patch of `BadNets`, which sends only the source class to the target; the network ignores it on other classes.

    Source: targeted contamination attack (TaCT) of Tang et al. 2021: images of the source class get the trigger and the
    target label, and cover images of other classes get the trigger and keep their label. Poisoning rate: 2 % of all
    training images, from the source class, and 1 % cover, from all classes but source and target; both are our choice.
    Adapted: the patch of `BadNets` replaces their box.

    Attributes:
        source: class on which the trigger works.
        cover_rate: share of all training images that is cover.
    """

    rate: float = 0.02
    source: int = 1
    cover_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise ValueError(f"source and target are both class {self.target}; pass another target or source=")

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Draw poisoned images from the source class and cover from the rest; raise ValueError if there are too few."""
        roles = draw_poisoned(y, y == self.source, self.rate, generator)
        return add_cover(roles, (y != self.source) & (y != self.target), self.cover_rate, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Stamp the patch on poisoned and cover images; only poisoned ones get the target label."""
        changed = roles != Role.CLEAN
        images = x.copy()
        images[changed] = self.trigger(x[changed])
        return images, np.where(roles == Role.POISONED, self.goal(y), y)

    def goal(self, y: Labels) -> Labels:
        """Return the target for the source class; no other class is attacked."""
        return np.where(y == self.source, self.target, y)

    def parameters(self) -> Parameters:
        """Return the parameters of `BadNets`, the source, and the share of cover images."""
        return super().parameters() | {"source": self.source, "cover_rate": self.cover_rate}
