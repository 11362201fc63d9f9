"""Margin search: for every class, inputs at which the network is most confident of it (paper, Eq. 6).

Two scales are searched together. Some of a class's maximisers move each by itself through the input box: they find
what a strong or local trigger exploits. The others are clean inputs that share one small perturbation: it finds
a faint global trigger, whose strength is that one perturbation works on every input. The maximisers stay warm from
round to round.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmguard.calibrate.graph.autocast import reduced
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.calibrate.graph.memory import inputs_per_pass
from mmguard.calibrate.learning.objective import class_margins
from mmguard.settings.settings import Settings


@dataclass(frozen=True)
class Box:
    """The feasible inputs: bounds `low` and `high`, broadcastable against (N, ...)."""

    low: Tensor
    high: Tensor

    @property
    def width(self) -> Tensor:
        """Width of the box, broadcastable against (N, ...)."""
        return self.high - self.low

    def clamp(self, x: Tensor) -> Tensor:
        """The nearest feasible inputs."""
        return torch.maximum(torch.minimum(x, self.high), self.low)


class MarginSearch:
    """Maximisers of every class's margin, kept and improved over the rounds.

    Args:
        graph: the network; its bounds are given to each call.
        clean: (N, ...) clean inputs D, which maximisers start from.
        box: feasible inputs.
        classes: K.
        settings: numbers of maximisers and steps, sizes of steps.
        generator: source of all randomness, on the CPU.

    Attributes:
        on_inputs: called with the number of inputs of each pass with its gradient.
    """

    def __init__(
        self,
        graph: DifferentiableGraph,
        clean: Tensor,
        box: Box,
        classes: int,
        settings: Settings,
        generator: torch.Generator,
    ) -> None:
        self._graph, self._clean, self._box, self._settings = graph, clean, box, settings
        self._generator = generator
        self.on_inputs: Callable[[float], None] = lambda _: None
        self._chunk = inputs_per_pass(graph, clean, 2 * settings.batch)
        each = settings.maximisers_of(classes)
        alone = int(each * (1 - settings.shared_share))
        every_class = torch.arange(classes, device=clean.device)
        self._alone_classes = every_class.repeat_interleave(alone)
        self._shared_classes = every_class.repeat_interleave(each - alone)
        self._perturbations = torch.zeros(classes, *clean.shape[1:], device=clean.device)
        self.restart()

    @property
    def classes(self) -> Tensor:
        """(M,) int64, the class whose margin each maximiser maximises; the class of row i never changes."""
        return torch.cat([self._alone_classes, self._shared_classes])

    def restart(self) -> None:
        """Forget all maximisers, and draw new starts."""
        self._alone = self._start(len(self._alone_classes))
        self._perturbations = torch.zeros_like(self._perturbations)
        self._bases = self._draw(len(self._shared_classes))

    def state(self) -> dict[str, Tensor]:
        """What goes on from round to round. Later steps replace these tensors, and write to none of them."""
        return {"alone": self._alone, "perturbations": self._perturbations, "bases": self._bases}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        device = self._clean.device
        self._alone, self._perturbations = state["alone"].to(device), state["perturbations"].to(device)
        self._bases = state["bases"].to(device)

    def maximisers(self) -> Tensor:
        """(M, ...) the feasible inputs found so far."""
        return torch.cat([self._alone, self._shared()])

    def ascend(self, bounds: Mapping[str, Tensor] | None, steps: int) -> None:
        """Improve the maximisers, bounds held fixed. The shared perturbations meet freshly drawn clean inputs.

        Args:
            bounds: bounds by value name; None searches the original network.
            steps: of ascent.
        """
        self._bases = self._draw(len(self._shared_classes))
        for _ in range(steps):
            if len(self._alone):
                self._move_alone(self._gradient(self._alone, self._alone_classes, bounds))
            if len(self._bases):
                self._move_perturbations(self._gradient(self._shared(), self._shared_classes, bounds))

    @torch.no_grad()
    def margins(self, bounds: Mapping[str, Tensor] | None) -> Tensor:
        """(K,) by class, mean margin of its maximisers."""
        batches = zip(self.maximisers().split(self._chunk), self.classes.split(self._chunk), strict=True)
        margins = torch.cat([class_margins(self._graph(x, bounds), classes) for x, classes in batches])
        totals = torch.zeros(len(self._perturbations), device=margins.device).index_add_(0, self.classes, margins)
        return totals / torch.bincount(self.classes)

    def _start(self, count: int) -> Tensor:
        clean, noise = self._draw(count), torch.rand(count, *self._clean.shape[1:], generator=self._generator)
        share = self._settings.noise
        return (1 - share) * clean + share * (self._box.low + noise.to(clean.device) * self._box.width)

    def _draw(self, count: int) -> Tensor:
        rows = torch.randint(len(self._clean), (count,), generator=self._generator)
        return self._clean[rows.to(self._clean.device)]

    def _shared(self) -> Tensor:
        return self._box.clamp(self._bases + self._perturbations[self._shared_classes])

    def _move_alone(self, gradient: Tensor) -> None:
        step = self._settings.sample_step * self._box.width * self._direction(gradient)
        self._alone = self._box.clamp(self._alone + step)

    def _move_perturbations(self, gradient: Tensor) -> None:
        """One step on the gradient of all inputs that share a perturbation."""
        total = torch.zeros_like(self._perturbations).index_add_(0, self._shared_classes, gradient)
        moved = self._perturbations + self._settings.shared_step * self._box.width * self._direction(total)
        radius = self._settings.shared_radius * self._box.width
        self._perturbations = torch.maximum(torch.minimum(moved, radius), -radius)

    def _direction(self, gradient: Tensor) -> Tensor:
        """Where a gradient leads, with respect to a position in the box from 0 to 1."""
        return gradient.sign() if self._settings.normalised else gradient * self._box.width

    def _gradient(self, x: Tensor, classes: Tensor, bounds: Mapping[str, Tensor] | None) -> Tensor:
        """(M, ...) gradient of each maximiser's margin, in batches that bound the memory."""
        parts = []
        for part, part_classes in zip(x.split(self._chunk), classes.split(self._chunk), strict=True):
            part = part.detach().requires_grad_()
            with reduced(part.device):
                logits = self._graph(part, bounds)
            margins = class_margins(logits.float(), part_classes)
            parts.append(torch.autograd.grad(margins.sum(), part)[0])
            self.on_inputs(len(part))
        return torch.cat(parts)
