"""The box of feasible inputs, stored as tensors: the set X in the paper's Eq. 4 and 6."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """Lower and upper limits of inputs, or of changes to inputs.

    Attributes:
        low: lower limits, broadcastable against (N, ...).
        high: upper limits, broadcastable against (N, ...).
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, low: npt.NDArray[np.float32], high: npt.NDArray[np.float32], device: str = "cpu") -> Self:
        """Create a box from the limits in an `InputSpec`.

        Args:
            low: lower limits of one input, float32, without a batch axis.
            high: upper limits of one input, float32, without a batch axis.
            device: torch device, such as `cpu` or `cuda`.

        Returns:
            The box, on `device`.

        Example:
            >>> Box.of(np.zeros(2, np.float32), np.ones(2, np.float32)).clamp(torch.tensor([[0.5, 3.0]]))
            tensor([[0.5000, 1.0000]])
        """
        return cls(*(torch.from_numpy(np.asarray(limit))[None].to(device) for limit in (low, high)))

    @property
    def width(self) -> Tensor:
        """Width of the box, broadcastable against (N, ...)."""
        return self.high - self.low

    @property
    def device(self) -> torch.device:
        """Device of the limits."""
        return self.low.device

    def clamp(self, x: Tensor) -> Tensor:
        """Clamp points to the box.

        Args:
            x: (N, ...) points.

        Returns:
            (N, ...) nearest points in the box.
        """
        return torch.maximum(torch.minimum(x, self.high), self.low)

    def changes(self, share: float) -> "Box":
        """Return a box that limits the changes to an input.

        Args:
            share: maximum absolute change of each number in an input, as a fraction of the width of this box.

        Returns:
            A box centred on 0.
        """
        radius = share * self.width
        return Box(-radius, radius)
