"""The interface of a backdoor attack. All images are (N, 32, 32, 3) uint8, all labels (N,) int64."""

from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Roles = NDArray[np.int8]
Parameters = dict[str, int | float | str]


class Role(IntEnum):
    """How the attacker uses a training image; drawn before training, or before each epoch if a hook redraws."""

    CLEAN = 0
    POISONED = 1
    COVER = 2  # changed but keeps its label, as in WaNet's noise mode


class Attack(Protocol):
    """A backdoor attack by whoever trains the network (outsourced training, Gu et al. 2019, section 3.1).

    Training images are assigned roles. `poison` is applied to every batch after augmentation, so that a crop cannot cut
    off a trigger and a flip cannot move it: the trigger is learnt where it will be used. An attack that takes part in
    training in other ways also has a `hook` (see `benchmarks.attacks.hook`).
    """

    @property
    def rate(self) -> float:
        """Share of the training images that is poisoned, in [0, 1)."""
        ...

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """Assign a role (N,) int8 to each training image, given the labels of all of them."""
        ...

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """Return images and labels of an augmented batch as the network sees them. Does not change its arguments."""
        ...

    def trigger(self, x: Images) -> Images:
        """Return copies of the images with the trigger, as the attacker shows them to the deployed network."""
        ...

    def goal(self, y: Labels) -> Labels:
        """Return the label that the attacker wants for a triggered image; equal to `y` for classes not attacked."""
        ...

    def parameters(self) -> Parameters:
        """Return everything that defines the trigger and its use, for the network's record."""
        ...
