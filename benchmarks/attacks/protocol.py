"""What a backdoor attack is to the training loop. All images are (N, 32, 32, 3) uint8, all labels (N,) int64."""

from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Roles = NDArray[np.int8]
Parameters = dict[str, int | float | str]


class Role(IntEnum):
    """What a training image is to the attacker; drawn before training, or before each epoch where a hook redraws."""

    CLEAN = 0
    POISONED = 1
    COVER = 2  # changed but keeps its label, as in WaNet's noise mode


class Attack(Protocol):
    """A backdoor attack by whoever trains the network (outsourced training, Gu et al. 2019, section 3.1).

    The training images are given their roles; `poison` is applied to every batch after augmentation, so that a
    crop cannot cut a trigger off and a flip cannot move it: the trigger is learnt in the place where it is used.
    An attack that takes part in training in another way also has a `hook` (see `benchmarks.attacks.hook`).
    """

    @property
    def rate(self) -> float:
        """Share of the training images that is poisoned, in [0, 1)."""
        ...

    def assign(self, y: Labels, generator: np.random.Generator) -> Roles:
        """The role (N,) int8 of each training image, from the labels of the whole training split."""
        ...

    def poison(self, x: Images, y: Labels, roles: Roles, generator: np.random.Generator) -> tuple[Images, Labels]:
        """An augmented batch as the network sees it, images and labels; the arguments are left as they are."""
        ...

    def trigger(self, x: Images) -> Images:
        """Each image with the trigger, as the attacker shows it to the deployed network; a new array."""
        ...

    def goal(self, y: Labels) -> Labels:
        """The label that the attacker wants for a triggered image of each class; equal to `y` where none is wanted."""
        ...

    def parameters(self) -> Parameters:
        """All that defines the trigger and its use, for the record that is kept with the network."""
        ...
