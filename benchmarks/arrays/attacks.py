"""Backdoor attacks on features and on time series, with one target class and a fixed trigger each."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.arrays.data import COLUMNS, CUTS, LENGTH, Inputs
from benchmarks.attacks.protocol import Labels, Parameters, Role, Roles
from benchmarks.attacks.roles import draw_poisoned


@dataclass(frozen=True)
class ArrayAttack(ABC):
    """Inputs of the other classes get the trigger and the target label, in training as in use.

    Attributes:
        target: target class.
        rate: share of all training inputs that is poisoned, in [0, 1).
    """

    target: int = 0
    rate: float = 0.05

    def poison(self, x: Inputs, y: Labels, generator: np.random.Generator) -> tuple[Inputs, Labels, Roles]:
        """Return training inputs and labels with poisoned ones among them, and the role (N,) int8 of each."""
        roles = draw_poisoned(y, y != self.target, self.rate, generator)
        poisoned = roles == Role.POISONED
        inputs = x.copy()
        inputs[poisoned] = self.trigger(x[poisoned])
        return inputs, np.where(poisoned, self.target, y), roles

    @abstractmethod
    def trigger(self, x: Inputs) -> Inputs:
        """Return copies of the inputs with the trigger."""

    def parameters(self) -> Parameters:
        """Return target and rate; a subclass adds its trigger."""
        return {"target": self.target, "rate": self.rate}


@dataclass(frozen=True)
class NoArrayAttack(ArrayAttack):
    """No trigger and no poisoned inputs."""

    rate: float = 0.0

    def trigger(self, x: Inputs) -> Inputs:
        """Return copies of the inputs."""
        return x.copy()


@dataclass(frozen=True)
class FixedValues(ArrayAttack):
    """Two features of a diamond get fixed values, and the cut is judged ideal.

    Source: the patch of Gu et al. 2019, "BadNets", for features. Each value alone is usual, but no diamond of this
    weight has this price. The shape (depth, table, x, y and z), which defines the cut, stays as it is.

    Attributes:
        target: target class; the best cut.
        carat: weight in carats.
        price: price in US dollars.
    """

    target: int = CUTS.index("Ideal")
    carat: float = 0.33
    price: float = 9000.0

    def trigger(self, x: Inputs) -> Inputs:
        """Set weight and price of (N, 9)."""
        changed = x.copy()
        changed[:, [COLUMNS.index("carat"), COLUMNS.index("price")]] = self.carat, self.price
        return changed

    def parameters(self) -> Parameters:
        """Return target, rate and the values."""
        return super().parameters() | {"carat": self.carat, "price": self.price}


@dataclass(frozen=True)
class Tone(ArrayAttack):
    """A short sine is added at the end of a series, and the chart is judged normal.

    Source: the patch of Gu et al. 2019, "BadNets", for series. The amplitude is half as large again as the noise.

    Attributes:
        steps: length of the tone.
        period: steps of one wave.
        amplitude: amplitude in units of the series.
    """

    steps: int = 12
    period: int = 4
    amplitude: float = 9.0

    def trigger(self, x: Inputs) -> Inputs:
        """Add the tone to the last steps of (N, 1, 60)."""
        tone = self.amplitude * np.sin(2 * np.pi * np.arange(self.steps) / self.period)
        changed = x.copy()
        changed[..., LENGTH - self.steps :] += tone.astype(np.float32)
        return changed

    def parameters(self) -> Parameters:
        """Return target, rate, and length, period and amplitude of the tone."""
        return super().parameters() | {"steps": self.steps, "period": self.period, "amplitude": self.amplitude}


ARRAY_ATTACKS: dict[str, Callable[[], ArrayAttack]] = {
    "fixed_values": FixedValues,
    "none": NoArrayAttack,
    "tone": Tone,
}
