"""How much of the clean set's activations learned bounds clip."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.graph import DifferentiableGraph
from mmguard.calibrate.memory import inputs_per_pass
from mmguard.types import SiteClipping

AT_ONCE = 200
"""Inputs of one forward pass, at most."""


def measure_clipping(
    graph: DifferentiableGraph,
    axes: Mapping[str, int],
    bounds: Mapping[str, npt.NDArray[np.float32]],
    x: npt.NDArray[np.float32],
    device: str = "cpu",
) -> tuple[SiteClipping, ...]:
    """Hold the unclipped activations of D against the bounds.

    Args:
        graph: the original network, on `device`. axes: channel axis by name of each activation.
        bounds: by name, broadcastable against the activation. x: (N, ...) float32, D.

    Returns:
        What is clipped at each activation, in the order of `axes`.
    """
    tallies = {value: _Tally(torch.from_numpy(bounds[value]).to(device), axes[value]) for value in axes}
    batch = inputs_per_pass(graph, torch.from_numpy(x[:1]).to(device), AT_ONCE)
    with torch.no_grad():
        for part in _parts(x, batch, device):
            for value, activation in graph.record(part, tuple(axes)).items():
                tallies[value].add(activation)
    return tuple(tally.result(value, len(x)) for value, tally in tallies.items())


def _parts(x: npt.NDArray[np.float32], batch: int, device: str) -> Iterator[Tensor]:
    for start in range(0, len(x), batch):
        yield torch.from_numpy(x[start : start + batch]).to(device)


class _Tally:
    """Counts of one activation over the batches."""

    def __init__(self, bound: Tensor, axis: int) -> None:
        self._bound, self._axis = bound, axis
        self._values, self._clipped, self._inputs = 0, 0, 0
        self._low, self._high = torch.full_like(bound, torch.inf), torch.full_like(bound, -torch.inf)

    def add(self, activation: Tensor) -> None:
        """Count one batch (N, ...)."""
        above = activation > self._bound
        self._values += above.numel()
        self._clipped += int(above.sum())
        self._inputs += int(above.flatten(1).any(1).sum())
        over = [axis for axis in range(activation.ndim) if axis != self._axis % activation.ndim]
        self._low = torch.minimum(self._low, activation.amin(over).reshape_as(self._bound))
        self._high = torch.maximum(self._high, activation.amax(over).reshape_as(self._bound))

    def result(self, value: str, n: int) -> SiteClipping:
        """Shares over all n inputs."""
        width = self._high - self._low
        heights = ((self._bound - self._low) / width)[width > 0].double().cpu().numpy()
        median = float(np.median(heights)) if heights.size else None
        return SiteClipping(value, self._clipped / self._values, self._inputs / n, median)
