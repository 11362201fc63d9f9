"""A sinusoidal signal, trained on images of the target class.

Barni, Kallas and Tondi 2019, "A new backdoor attack in CNNs by training set corruption without label poisoning".
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Parameters
from benchmarks.attacks.single_target import ConsistentLabels, to_pixels


@dataclass(frozen=True)
class Sig(ConsistentLabels):
    """v(i, j) = amplitude sin(2 π j frequency / width) is added to images; in training to the target class only.

    Source: Barni et al. 2019, with the amplitude of 20 and the frequency of 6 of their traffic signs. Poisoning rate:
    3 % of the training split, which is 30 % of the target class; theirs, too, is a share of that class. Adapted: they
    work on grey digits and on signs; here the signal is added to the three channels alike.

    Attributes:
        amplitude: grey levels.
        frequency: periods over the width.
    """

    rate: float = 0.03
    amplitude: float = 20.0
    frequency: float = 6.0

    def trigger(self, x: Images) -> Images:
        """Each image plus the signal, clipped to [0, 255]."""
        width = x.shape[2]
        signal = self.amplitude * np.sin(2 * np.pi * np.arange(width) * self.frequency / width)
        return to_pixels(x + signal[:, None])

    def parameters(self) -> Parameters:
        """Target, rate, amplitude and frequency."""
        signal = {"amplitude": self.amplitude, "frequency": self.frequency}
        return super().parameters() | {"pattern": "sinusoid along each row"} | signal
