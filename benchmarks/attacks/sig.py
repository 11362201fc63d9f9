"""A sinusoidal signal that is learnt from images of the target class.

Barni, Kallas and Tondi 2019, "A new backdoor attack in CNNs by training set corruption without label poisoning".
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.protocol import Images, Parameters
from benchmarks.attacks.single_target import ConsistentLabels, to_pixels


@dataclass(frozen=True)
class Sig(ConsistentLabels):
    """The signal v(i, j) = amplitude sin(2 π j frequency / width) is added to images, in training only of the target.

    Source: Barni et al. 2019, with the amplitude of 20 and the frequency of 6 that they use on traffic signs. Poisoning
    rate: 3 % of all training images, 30 % of the target class; their rate is a share of that class too. Adapted: they
    use grey digits and traffic signs; here the signal is the same in all three channels.

    Attributes:
        amplitude: amplitude in grey levels.
        frequency: number of periods over the width.
    """

    rate: float = 0.03
    amplitude: float = 20.0
    frequency: float = 6.0

    def trigger(self, x: Images) -> Images:
        """Add the signal to each image, and clip to [0, 255]."""
        width = x.shape[2]
        signal = self.amplitude * np.sin(2 * np.pi * np.arange(width) * self.frequency / width)
        return to_pixels(x + signal[:, None])

    def parameters(self) -> Parameters:
        """Return target, rate, amplitude and frequency."""
        signal = {"amplitude": self.amplitude, "frequency": self.frequency}
        return super().parameters() | {"pattern": "sinusoid along each row"} | signal
