"""Base classes of attacks with one target class and a fixed trigger, which the subclass defines."""

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
        target: target class.
        rate: share of all training images that is poisoned, in (0, 1), drawn from the other classes.
    """

    target: int = 0
    rate: float = 0.05

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Draw `rate` N images of the other classes to poison; raise ValueError if there are too few."""
        return draw_poisoned(y, y != self.target, self.rate, generator)

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Add the trigger to poisoned images, and change their labels to the target."""
        poisoned = roles == Role.POISONED
        images = x.copy()
        images[poisoned] = self.trigger(x[poisoned])
        return images, np.where(poisoned, self.goal(y), y)

    @abstractmethod
    def trigger(self, x: Images) -> Images:
        """Return copies of the images with the trigger."""

    def goal(self, y: Labels) -> Labels:
        """Return the target for every class."""
        return np.full_like(y, self.target)

    def parameters(self) -> Parameters:
        """Return target and rate; a subclass adds its trigger."""
        return {"target": self.target, "rate": self.rate}


@dataclass(frozen=True)
class ConsistentLabels(SingleTarget):
    """Images of the target class get the trigger and keep their label, so that no label in the data is wrong.

    Attributes:
        rate: share of all training images that is poisoned; at most a tenth with ten equal classes.
    """

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Draw `rate` N images of the target class to poison; raise ValueError if there are too few."""
        return draw_poisoned(y, y == self.target, self.rate, generator)


def to_pixels(values: NDArray[np.floating]) -> Images:
    """Round and clip grey levels of any shape to the 256 levels of an image file: uint8."""
    pixels: Images = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels
