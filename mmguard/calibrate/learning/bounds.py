"""The learnable bounds Z (paper, Eq. 2): one upper bound per channel of each clip site."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mmguard.calibrate.graph.batches import padded_batches
from mmguard.calibrate.graph.differentiable import DifferentiableGraph


class Bounds(torch.nn.Module):
    """Upper bounds, computed as `low + (high - low) * position`; only the positions are learned.

    Positions are at least 0; at position 1, the bound is `high`. In bounds created by `over`, `low` and `high` are the
    smallest and largest activation of each channel over D. This way, a step of the optimiser has the same relative size
    for every channel, and the bound of a ReLU is never negative.

    Args:
        low: bounds at position 0, by value name, broadcastable against the value.
        high: bounds at position 1, by value name, of the same shapes as `low`.
        start: initial position.

    Attributes:
        values: ONNX names of the clipped values.
        positions: one parameter per value, in the order of `values`.
    """

    def __init__(self, low: dict[str, Tensor], high: dict[str, Tensor], start: float = 1.0) -> None:
        super().__init__()
        self.values = tuple(low)
        self._low = low
        self._range = {value: high[value] - low[value] for value in low}
        self.positions = torch.nn.ParameterList([torch.full_like(low[value], start) for value in self.values])

    @classmethod
    def alike(cls, graph: DifferentiableGraph, axes: Mapping[str, int], x: Tensor, start: float) -> "Bounds":
        """Return bounds that all start at the same value and cannot fall below 0.

        Args:
            graph: the original network.
            axes: channel axis of each clip site, by value name.
            x: (N, ...) any inputs; only used to determine the number of channels.
            start: initial bound, in the units of the activations; must be above 0.

        Returns:
            The bounds.
        """
        shapes = cls.over(graph, axes, iter([x])).fixed()
        low = {value: torch.zeros_like(bound) for value, bound in shapes.items()}
        return cls(low, {value: torch.full_like(bound, start) for value, bound in shapes.items()})

    @classmethod
    def over(
        cls, graph: DifferentiableGraph, axes: Mapping[str, int], batches: Iterator[Tensor], start: float = 1.0
    ) -> "Bounds":
        """Return bounds that all start at the same fraction of their channel's range over D.

        Args:
            graph: the original network.
            axes: channel axis of each clip site, by value name.
            batches: batches (N, ...) of D.
            start: initial bounds, as a fraction of the range; at 1, no activation on D is clipped at first.

        Returns:
            The bounds.
        """
        low: dict[str, Tensor] = {}
        high: dict[str, Tensor] = {}
        with torch.no_grad():
            # If the model has a fixed batch size, record its batches one by one, because the first axis of an
            # activation may not be the batch axis.
            for batch, _ in (pair for x in batches for pair in padded_batches(x, graph.batch)):
                for value, activation in graph.record(batch, tuple(axes)).items():
                    over = [axis for axis in range(activation.ndim) if axis != axes[value] % activation.ndim]
                    least, most = activation.amin(over, keepdim=True)[0], activation.amax(over, keepdim=True)[0]
                    low[value] = torch.minimum(low.get(value, least), least)
                    high[value] = torch.maximum(high.get(value, most), most)
        return cls(low, high, start)

    def forward(self) -> dict[str, Tensor]:
        """Return the bounds, differentiable with respect to the positions.

        Returns:
            Bounds by value name, one number per channel, broadcastable against the value.
        """
        return {
            value: self._low[value] + self._range[value] * position
            for value, position in zip(self.values, self.positions, strict=True)
        }

    def fixed(self) -> dict[str, Tensor]:
        """Return the bounds without gradients, for the margin search, which keeps the bounds fixed.

        Returns:
            The bounds that `forward` returns, detached.
        """
        with torch.no_grad():
            return self.forward()

    @torch.no_grad()
    def project(self) -> None:
        """Raise negative positions to 0."""
        for position in self.positions:
            position.clamp_(min=0)
