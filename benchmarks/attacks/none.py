"""No attack: the network that a defence must leave as good as it is."""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles


@dataclass(frozen=True)
class NoAttack:
    """Every image is clean, and no label is wanted.

    Attributes:
        target, rate: not used; every attack has them.
    """

    target: int = 0
    rate: float = 0.0

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """All clean."""
        return np.full(y.shape, Role.CLEAN, dtype=np.int8)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Copies."""
        return x.copy(), y.copy()

    def trigger(self, x: Images) -> Images:
        """A copy."""
        return x.copy()

    def goal(self, y: Labels) -> Labels:
        """Each image's own label, so that none is a victim."""
        return y.copy()

    def parameters(self) -> Parameters:
        """None but those that every attack has."""
        return {"target": self.target, "rate": self.rate}
