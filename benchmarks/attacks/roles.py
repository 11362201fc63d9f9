"""Draw which training images are poisoned and which become cover."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks.protocol import Labels, Role, Roles

Indices = NDArray[np.int64]


def draw_poisoned(y: Labels, candidates: NDArray[np.bool_], rate: float, generator: np.random.Generator) -> Roles:
    """Draw `rate` N of the candidates (N,) bool to poison; all other images are clean.

    Raises:
        ValueError: there are too few candidates.
    """
    roles = np.full(y.shape, Role.CLEAN, dtype=np.int8)
    roles[_draw(np.flatnonzero(candidates), round(rate * y.size), generator)] = Role.POISONED
    return roles


def add_cover(roles: Roles, candidates: NDArray[np.bool_], rate: float, generator: np.random.Generator) -> Roles:
    """Return a copy of the roles in which `rate` N of the clean candidates (N,) bool become cover.

    Raises:
        ValueError: there are too few clean candidates.
    """
    clean = np.flatnonzero(candidates & (roles == Role.CLEAN))
    covered = roles.copy()
    covered[_draw(clean, round(rate * roles.size), generator)] = Role.COVER
    return covered


def _draw(candidates: Indices, count: int, generator: np.random.Generator) -> Indices:
    if count > candidates.size:
        raise ValueError(
            f"the attack needs {count} training images, but only {candidates.size} are of classes that it may use; "
            "pass a smaller rate"
        )
    return generator.choice(candidates, count, replace=False)
