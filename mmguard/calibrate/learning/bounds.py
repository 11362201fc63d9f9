"""The bounds Z as parameters (paper, Eq. 2): one upper bound a channel, in units of where it starts."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.fixed_batch import parts


class Bounds(torch.nn.Module):
    """Bounds `low + range * position`, where positions are learned.

    Positions start at `start`, are never below 0, and give `high` at 1. Over D, `high` is each channel's largest
    activation and `low` its smallest: a step of the optimiser is then of the same size for every channel, whatever its
    scale. A ReLU's bound never is negative.
    """

    def __init__(self, low: dict[str, Tensor], high: dict[str, Tensor], start: float = 1.0) -> None:
        super().__init__()
        self.values = tuple(low)
        self._low = low
        self._range = {value: high[value] - low[value] for value in low}
        self.positions = torch.nn.ParameterList([torch.full_like(low[value], start) for value in self.values])

    @classmethod
    def alike(cls, graph: DifferentiableGraph, axes: Mapping[str, int], x: Tensor, start: float) -> "Bounds":
        """Start every bound at the same number, above a floor of 0.

        Args:
            graph: the original network. axes: channel axis by name of each activation. x: (N, ...) any inputs.
            start: in units of activations, above 0.
        """
        shapes = cls.over(graph, axes, iter([x])).fixed()
        low = {value: torch.zeros_like(bound) for value, bound in shapes.items()}
        return cls(low, {value: torch.full_like(bound, start) for value, bound in shapes.items()})

    @classmethod
    def over(
        cls, graph: DifferentiableGraph, axes: Mapping[str, int], batches: Iterator[Tensor], start: float = 1.0
    ) -> "Bounds":
        """Start from the range of each activation over D.

        Args:
            graph: the original network.
            axes: channel axis by name of each activation.
            batches: D, (N, ...) each.
            start: share of the range; 1 clips nothing of D.
        """
        low: dict[str, Tensor] = {}
        high: dict[str, Tensor] = {}
        with torch.no_grad():
            # Part by part, because an activation may have the batch among its other axes.
            for part, _ in (pair for x in batches for pair in parts(x, graph.batch)):
                for value, activation in graph.record(part, tuple(axes)).items():
                    over = [axis for axis in range(activation.ndim) if axis != axes[value] % activation.ndim]
                    least, most = activation.amin(over, keepdim=True)[0], activation.amax(over, keepdim=True)[0]
                    low[value] = torch.minimum(low.get(value, least), least)
                    high[value] = torch.maximum(high.get(value, most), most)
        return cls(low, high, start)

    def forward(self) -> dict[str, Tensor]:
        """Bounds by value name, one number a channel, broadcastable against the value; differentiable."""
        return {
            value: self._low[value] + self._range[value] * position
            for value, position in zip(self.values, self.positions, strict=True)
        }

    def fixed(self) -> dict[str, Tensor]:
        """The same, detached: for the margin search, which holds Z fixed."""
        with torch.no_grad():
            return self.forward()

    @torch.no_grad()
    def project(self) -> None:
        """Floor the positions at 0."""
        for position in self.positions:
            position.clamp_(min=0)
