"""No attack, for the clean network that a defence must not harm."""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles


@dataclass(frozen=True)
class NoAttack:
    """Every image is clean, and the attacker wants nothing.

    Attributes:
        target: not used, but part of every attack.
        rate: not used, but part of every attack.
    """

    target: int = 0
    rate: float = 0.0

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Make every image clean."""
        return np.full(y.shape, Role.CLEAN, dtype=np.int8)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Return copies."""
        return x.copy(), y.copy()

    def trigger(self, x: Images) -> Images:
        """Return a copy."""
        return x.copy()

    def goal(self, y: Labels) -> Labels:
        """Return each image's own label, so that no image is attacked."""
        return y.copy()

    def parameters(self) -> Parameters:
        """Return the parameters that every attack has."""
        return {"target": self.target, "rate": self.rate}
