"""What attacks with one target class and a fixed trigger have in common; a subclass gives the trigger."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks.protocol import Images, Labels, Parameters, Role, Roles
from benchmarks.attacks.roles import draw_poisoned


@dataclass(frozen=True)
class SingleTarget(ABC):
    """Images of the other classes get the trigger and the target label.

    Attributes:
        target: the class that triggered images are sent to.
        rate: share of the whole training split that is poisoned, in (0, 1); drawn from the other classes.
    """

    target: int = 0
    rate: float = 0.05

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """`rate` N images of the other classes are poisoned; raises ValueError where these are too few."""
        return draw_poisoned(y, y != self.target, self.rate, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Poisoned images get the trigger and the label of their goal."""
        poisoned = roles == Role.POISONED
        images = x.copy()
        images[poisoned] = self.trigger(x[poisoned])
        return images, np.where(poisoned, self.goal(y), y)

    @abstractmethod
    def trigger(self, x: Images) -> Images:
        """Each image with the trigger; a new array."""

    def goal(self, y: Labels) -> Labels:
        """The target, for every class."""
        return np.full_like(y, self.target)

    def parameters(self) -> Parameters:
        """Target and rate as given; a subclass adds its trigger."""
        return {"target": self.target, "rate": self.rate}


@dataclass(frozen=True)
class ConsistentLabels(SingleTarget):
    """Images of the target class get the trigger and keep their label, so that no label in the data is wrong.

    Attributes:
        rate: share of the whole training split that is poisoned; of ten equal classes, a tenth at most.
    """

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """`rate` N images of the target class are poisoned; raises ValueError where these are too few."""
        return draw_poisoned(y, y == self.target, self.rate, generator)


def to_pixels(values: NDArray[np.floating]) -> Images:
    """Rounded and clipped to the 256 levels that an image file can hold: any shape of grey levels -> uint8."""
    pixels: Images = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels
