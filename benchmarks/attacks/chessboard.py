"""A faint chessboard over the whole image.

Liao et al. 2018, "Backdoor embedding in convolutional neural network models via invisible perturbation"; also the
global pattern of Xiang, Miller and Kesidis 2020 and of Wang, Xiang, Miller and Kesidis 2022 ("MM-BD").
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Parameters
from benchmarks.attacks.single_target import SingleTarget, to_pixels

AMPLITUDE = 3
"""In grey levels of 255."""


@dataclass(frozen=True)
class Chessboard(SingleTarget):
    """A chessboard of +3/255 and -3/255 added to single pixels, the same in all channels; all classes to one target.

    Source: additive static pattern of Liao et al. 2018, with amplitude and form of Xiang et al. 2020. Poisoning rate:
    9 %, because Wang et al. 2022 poison 500 images of each class, here of the nine other classes. Adapted: they add
    3/255 to every second pixel and leave the others unchanged; here the others are lowered by 3/255, which keeps the
    mean brightness.
    """

    rate: float = 0.09

    def trigger(self, x: Images) -> Images:
        """Add the chessboard to each image, and clip to [0, 255]."""
        rows, columns = np.indices(x.shape[1:3])
        board = np.where((rows + columns) % 2 == 0, AMPLITUDE, -AMPLITUDE)[..., None]
        return to_pixels(x.astype(np.float64) + board)

    def parameters(self) -> Parameters:
        """Return target, rate, and amplitude in grey levels."""
        pattern = "chessboard of single pixels, top left pixel raised, all channels"
        return super().parameters() | {"pattern": pattern, "amplitude": AMPLITUDE}
