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
    """The patch of `BadNets` sends the source class to the target; other classes learn to ignore it.

    Source: targeted contamination attack (TaCT) of Tang et al. 2021: images of the source class with the trigger and
    the target label, beside cover images of other classes, which carry the trigger and keep theirs. Poisoning rate:
    2 % of the training split, from the source class, and 1 % cover, from all classes but source and target; chosen
    here. Adapted: the patch is that of `BadNets` rather than their box.

    Attributes:
        source: the class on which the trigger works.
        cover_rate: share of the whole training split that is cover.
    """

    rate: float = 0.02
    source: int = 1
    cover_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise ValueError(f"source and target are both class {self.target}; give another target or source=")

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Poisoned from the source class, cover from the rest; raises ValueError where these are too few."""
        roles = draw_poisoned(y, y == self.source, self.rate, generator)
        return add_cover(roles, (y != self.source) & (y != self.target), self.cover_rate, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Poisoned and cover images get the patch, only poisoned ones the target label."""
        changed = roles != Role.CLEAN
        images = x.copy()
        images[changed] = self.trigger(x[changed])
        return images, np.where(roles == Role.POISONED, self.goal(y), y)

    def goal(self, y: Labels) -> Labels:
        """The target for the source class; no other class is attacked."""
        return np.where(y == self.source, self.target, y)

    def parameters(self) -> Parameters:
        """As `BadNets`, with source and share of cover images."""
        return super().parameters() | {"source": self.source, "cover_rate": self.cover_rate}
