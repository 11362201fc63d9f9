"""The state of a calibration after a round, as named arrays, so that it can be stored without pickle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from mmguard.types import Calibration

State = dict[str, npt.NDArray[Any]]
"""Arrays by name; a number is stored as a zero-dimensional array. The prefix of a name, such as `search/`, shows which
part of the calibration the array belongs to."""


@dataclass(frozen=True)
class RoundState:
    """Values that one round passes on to the next, in addition to the bounds, the optimiser and the margin search.

    Attributes:
        weight: λ for the next round.
        number: number of finished rounds.
        previous: value of the objective in the last finished round; infinity before the first round.
        converged: whether the objective has stopped changing; if so, no further rounds are run.
    """

    weight: float
    number: int = 0
    previous: float = math.inf
    converged: bool = False

    def state(self) -> State:
        """Return the fields as arrays.

        Returns:
            Arrays by field name.
        """
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def restore(cls, state: State) -> Self:
        """Rebuild the object from arrays.

        Args:
            state: arrays returned by `state`; additional arrays are ignored.

        Returns:
            The object.
        """
        return cls(*(state[field.name].item() for field in fields(cls)))


def prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Put a prefix in front of every name.

    Args:
        prefix: the prefix, such as `search/`.
        values: values by name.

    Returns:
        The same values under the prefixed names.

    Example:
        >>> prefixed("search/", {"x": 1})
        {'search/x': 1}
    """
    return {prefix + name: value for name, value in values.items()}


def below(prefix: str, state: State) -> State:
    """Return the arrays whose names start with a prefix, and remove the prefix from their names.

    Args:
        prefix: the prefix, such as `search/`.
        state: arrays by name.

    Returns:
        Arrays by name without the prefix.

    Example:
        >>> sorted(below("search/", {"search/x": np.zeros(1), "number": np.ones(1)}))
        ['x']
    """
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def bounds_state(optimiser: torch.optim.Adam) -> State:
    """Copy the positions of the bounds, and the moments and learning rate of the optimiser.

    Args:
        optimiser: optimiser of the bounds.

    Returns:
        Arrays by name.
    """
    state: State = {"rate": np.asarray(optimiser.param_groups[0]["lr"])}
    for i, position in enumerate(optimiser.param_groups[0]["params"]):
        kept = {"position": position.detach(), **optimiser.state.get(position, {})}
        state |= {f"{i}/{name}": tensor.cpu().numpy().copy() for name, tensor in kept.items()}
    return state


def restore_bounds(optimiser: torch.optim.Adam, state: State) -> None:
    """Restore the positions of the bounds, and the moments and learning rate of the optimiser.

    Args:
        optimiser: optimiser whose bounds have the same shapes as the saved bounds; both the optimiser and its bounds
            are changed in place.
        state: arrays returned by `bounds_state`.
    """
    groups, moments = optimiser.state_dict()["param_groups"], {}
    groups[0]["lr"] = state["rate"].item()
    for i, position in enumerate(optimiser.param_groups[0]["params"]):
        position.data.copy_(torch.from_numpy(state[f"{i}/position"]))
        own = {name: torch.from_numpy(array) for name, array in below(f"{i}/", state).items() if name != "position"}
        if own:  # the optimiser has no moments for a bound that never had a gradient
            moments[i] = own
    optimiser.load_state_dict({"state": moments, "param_groups": groups})


def calibration_state(learned: Calibration) -> State:
    """Return a finished calibration as arrays.

    Args:
        learned: the calibration.

    Returns:
        Arrays by name.
    """
    arrays = {name: np.asarray(value) for name, value in vars(learned).items() if name != "bounds"}
    return {**arrays, **prefixed("bounds/", learned.bounds)}


def restore_calibration(state: State) -> Calibration:
    """Rebuild a finished calibration from arrays.

    Args:
        state: arrays returned by `calibration_state`.

    Returns:
        The calibration.
    """
    arrays: dict[str, Any] = {name: value for name, value in state.items() if not name.startswith("bounds/")}
    numbers = {name: arrays[name].item() for name in ("rounds", "converged")}
    return Calibration(bounds=below("bounds/", state), **(arrays | numbers))
