"""A faint chessboard over the whole image.

Liao et al. 2018, "Backdoor embedding in convolutional neural network models via invisible perturbation"; as the global
pattern of Xiang, Miller and Kesidis 2020 and of Wang, Xiang, Miller and Kesidis 2022 ("MM-BD").
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Parameters
from benchmarks.attacks.single_target import SingleTarget, to_pixels

AMPLITUDE = 3
"""Grey levels of 255."""


@dataclass(frozen=True)
class Chessboard(SingleTarget):
    """3/255 added to every second pixel and taken from those in between, alike in all channels; all classes to one.

    Source: additive static pattern of Liao et al. 2018; amplitude and form are those of Xiang et al. 2020. Poisoning
    rate: 9 %, as 500 images of each class are poisoned in Wang et al. 2022, here of the nine other classes.
    Adapted: they add 3/255 to every second pixel and leave the others; here these are lowered by as much, which keeps
    the mean brightness.
    """

    rate: float = 0.09

    def trigger(self, x: Images) -> Images:
        """Each image plus the chessboard, clipped to [0, 255]."""
        rows, columns = np.indices(x.shape[1:3])
        board = np.where((rows + columns) % 2 == 0, AMPLITUDE, -AMPLITUDE)[..., None]
        return to_pixels(x.astype(np.float64) + board)

    def parameters(self) -> Parameters:
        """Target, rate and amplitude in grey levels."""
        pattern = "chessboard of single pixels, top left pixel raised, all channels"
        return super().parameters() | {"pattern": pattern, "amplitude": AMPLITUDE}
