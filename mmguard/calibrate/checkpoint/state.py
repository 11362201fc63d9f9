"""What a calibration goes on from after a round, as named arrays: to keep it on disk needs no pickle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from mmguard.types import Calibration

State = dict[str, npt.NDArray[Any]]
"""Arrays by name; numbers are arrays without axes. A prefix such as `search/` tells whose they are."""


@dataclass(frozen=True)
class Progress:
    """What the rounds carry on beside the bounds, their optimiser and the margin search.

    Attributes:
        weight: λ of the next round.
        number: rounds that are finished.
        previous: the objective of the last one.
        converged: whether it ended the rounds, because the objective no longer changed.
    """

    weight: float
    number: int = 0
    previous: float = math.inf
    converged: bool = False

    def state(self) -> State:
        """The fields as arrays."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def restore(cls, state: State) -> Self:
        """The fields from arrays."""
        return cls(*(state[field.name].item() for field in fields(cls)))


def prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, each name behind a prefix."""
    return {prefix + name: value for name, value in values.items()}


def below(prefix: str, state: State) -> State:
    """What has this prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def bounds_state(optimiser: torch.optim.Adam) -> State:
    """Copies of what the optimiser moves, and of its own moments and learning rate."""
    state: State = {"rate": np.asarray(optimiser.param_groups[0]["lr"])}
    for i, position in enumerate(optimiser.param_groups[0]["params"]):
        kept = {"position": position.detach(), **optimiser.state.get(position, {})}
        state |= {f"{i}/{name}": tensor.cpu().numpy().copy() for name, tensor in kept.items()}
    return state


def restore_bounds(optimiser: torch.optim.Adam, state: State) -> None:
    """Put all of that back."""
    groups, moments = optimiser.state_dict()["param_groups"], {}
    groups[0]["lr"] = state["rate"].item()
    for i, position in enumerate(optimiser.param_groups[0]["params"]):
        position.data.copy_(torch.from_numpy(state[f"{i}/position"]))
        own = {name: torch.from_numpy(array) for name, array in below(f"{i}/", state).items() if name != "position"}
        if own:  # a bound that never had a gradient has none
            moments[i] = own
    optimiser.load_state_dict({"state": moments, "param_groups": groups})


def calibration_state(learned: Calibration) -> State:
    """A finished calibration as arrays."""
    arrays = {name: np.asarray(value) for name, value in vars(learned).items() if name != "bounds"}
    return {**arrays, **prefixed("bounds/", learned.bounds)}


def restore_calibration(state: State) -> Calibration:
    """The calibration that was made arrays of."""
    arrays: dict[str, Any] = {name: value for name, value in state.items() if not name.startswith("bounds/")}
    numbers = {name: arrays[name].item() for name in ("rounds", "converged")}
    return Calibration(bounds=below("bounds/", state), **(arrays | numbers))
