"""Measure how many activation values the learned bounds clip at each clip site on the calibration set."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmguard.calibrate.graph.batches import padded_batches
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.types import SiteClipping

AT_ONCE = 200
"""Maximum number of inputs per pass."""


def measure_clipping(
    graph: DifferentiableGraph,
    axes: Mapping[str, int],
    bounds: Mapping[str, npt.NDArray[np.float32]],
    x: npt.NDArray[np.float32],
    device: str = "cpu",
) -> tuple[SiteClipping, ...]:
    """Count how many of the original network's activation values on D exceed the bounds.

    Args:
        graph: the original network, on `device`.
        axes: channel axis of each clip site, by value name.
        bounds: bounds by value name, broadcastable against the activation.
        x: (N, ...) float32, the clean inputs D.
        device: torch device, such as `cpu` or `cuda`.

    Returns:
        The clipping statistics of each clip site, in the order of `axes`.
    """
    counts = {value: _Counts(torch.from_numpy(bounds[value]).to(device), axes[value]) for value in axes}
    size = inputs_per_pass(graph, torch.from_numpy(x[:1]).to(device), AT_ONCE)
    with torch.no_grad():
        batch_axes = _batch_axes(graph, tuple(axes), torch.from_numpy(x[:1]).to(device))
        for start in range(0, len(x), size):
            for batch, n in padded_batches(torch.from_numpy(x[start : start + size]).to(device), graph.batch):
                for value, activation in graph.record(batch, tuple(axes)).items():
                    counts[value].add(activation, batch_axes[value], len(batch), n)
    return tuple(each.result(value, len(x)) for value, each in counts.items())


def _batch_axes(graph: DifferentiableGraph, values: Sequence[str], x: Tensor) -> dict[str, int]:
    """Return the axis of each activation that grows with the batch size; 0 if the model's batch size is fixed."""
    if graph.batch is not None:
        return dict.fromkeys(values, 0)
    one, two = graph.record(x, values), graph.record(x[[0, 0]], values)
    lengths = {value: zip(one[value].shape, two[value].shape, strict=True) for value in values}
    return {value: next((axis for axis, (a, b) in enumerate(lengths[value]) if a != b), 0) for value in values}


class _Counts:
    """Counts the clipped values at one clip site, over all batches."""

    def __init__(self, bound: Tensor, axis: int) -> None:
        self._bound, self._axis = bound, axis
        self._values, self._clipped, self._inputs = 0, 0, 0
        self._low, self._high = torch.full_like(bound, torch.inf), torch.full_like(bound, -torch.inf)

    def add(self, activation: Tensor, batch_axis: int, size: int, n: int) -> None:
        """Add a batch of `size` inputs to the counts; only the first `n` inputs count, because the rest is padding."""
        above = (activation > self._bound).movedim(batch_axis, 0)
        each = above.reshape(size, -1)[:n] if len(above) % size == 0 else above.reshape(1, -1)
        self._values += each.numel()
        self._clipped += int(each.sum())
        self._inputs += int(each.any(1).sum())
        over = [axis for axis in range(activation.ndim) if axis != self._axis % activation.ndim]
        self._low = torch.minimum(self._low, activation.amin(over).reshape_as(self._bound))
        self._high = torch.maximum(self._high, activation.amax(over).reshape_as(self._bound))

    def result(self, value: str, n: int) -> SiteClipping:
        """Return the proportions of clipped values and of inputs with clipped values, and the median bound height."""
        width = self._high - self._low
        heights = ((self._bound - self._low) / width)[width > 0].double().cpu().numpy()
        median = float(np.median(heights)) if heights.size else None
        return SiteClipping(value, self._clipped / self._values, self._inputs / n, median)
